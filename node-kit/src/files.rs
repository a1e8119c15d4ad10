//! Files that are either old or new, never mixed, and reads that neither wait nor grow.
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;

/// What a replaced file survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process, at any moment. For tmpfs, and for what is made anew at each boot.
    Process,
    /// A power cut at any moment after the call too: the file and its folder are flushed (fsync(2)).
    PowerCut,
}

/// A file that could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { operation, path, source }
    }

    /// What the kernel said.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// Puts `content` in the place of the file at `path`, whole or not at all, with `mode` whatever the umask is. A link in its place is replaced, not followed.
///
/// # Errors
/// When the folder is missing or cannot be written; nothing has changed then, and nothing stays beside.
pub fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> Result<(), FileError> {
    replace_if(path, content, mode, durability, |_| Ok(()))
}

/// As [`replace`]; `commits` is asked, when all but the name is there, whether the file takes it, and may still change its owner.
///
/// # Errors
/// As [`replace`], and what `commits` says.
pub fn replace_if(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
    commits: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), FileError> {
    let fresh = Fresh::beside(path).map_err(FileError::of("write", path))?;
    let write = || -> io::Result<()> {
        // One that a power cut or a kill left.
        let _ = fs::remove_file(&fresh.0);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh.0)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        if durability == Durability::PowerCut {
            file.sync_all()?;
        }
        commits(&file)?;
        fs::rename(&fresh.0, path)?;
        match durability {
            Durability::PowerCut => sync_folder_of(path),
            Durability::Process => Ok(()),
        }
    };
    write().map_err(|source| {
        // A full disk gets its room back.
        let _ = fs::remove_file(&fresh.0);
        FileError { operation: "write", path: path.to_owned(), source }
    })
}

/// As [`replace`], unless the file has this content and mode already; true when it was written. The folder is made where it is missing, for all to enter.
///
/// # Errors
/// As [`replace`].
pub fn replace_changed(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> Result<bool, FileError> {
    let limit = content.len();
    let same_mode = fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o7777 == mode);
    if same_mode && read_bounded(path, limit).is_ok_and(|found| found.as_deref() == Some(content)) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        make_folder(folder, 0o755)?;
    }
    replace(path, content, mode, durability).map(|()| true)
}

/// Makes a folder and those above it, with `mode` less the umask; one that is there stays as it is.
///
/// # Errors
/// As mkdir(2).
pub fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(FileError::of("create", path))
}

/// Removes a file; one that is not there is none to remove.
///
/// # Errors
/// As unlink(2).
pub fn remove(path: &Path, durability: Durability) -> Result<(), FileError> {
    let remove = || match fs::remove_file(path) {
        Ok(()) if durability == Durability::PowerCut => sync_folder_of(path),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    remove().map_err(FileError::of("remove", path))
}

/// All of a regular file of at most `limit` bytes; `None` where there is none. Whatever else lies there (a FIFO, a device) is refused without waiting
/// for it, and a link in its place is not followed.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
pub fn read_bounded(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, FileError> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::of("read", path)(error)),
    };
    let read = || -> io::Result<Vec<u8>> {
        let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if !file.metadata()?.is_file() {
            return Err(refused("not a regular file".into()));
        }
        let mut content = Vec::new();
        // One more: then it is too long.
        (&file).take(limit as u64 + 1).read_to_end(&mut content)?;
        if content.len() > limit {
            return Err(refused(format!("longer than {limit} bytes")));
        }
        Ok(content)
    };
    read().map(Some).map_err(FileError::of("read", path))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Names in use by this process.
static IN_USE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A name beside a file, until this is dropped: two who write the same file at once each have one of their own. The first that is free, so what a kill left
/// goes with the next write. It begins with a dot, as watchers of folders read no such files.
struct Fresh(PathBuf);

impl Fresh {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = 0_u32;
        loop {
            let mut fresh = std::ffi::OsString::from(".");
            fresh.push(name);
            fresh.push(format!(".new{number}"));
            let fresh = folder_of(path).join(fresh);
            if in_use.insert(fresh.clone()) {
                return Ok(Self(fresh));
            }
            number += 1;
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (content, mode, durability) in
            [("old", 0o600, Durability::PowerCut), ("newer", 0o644, Durability::Process)]
        {
            replace(&path, content.as_bytes(), mode, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        }
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("file"), folder.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(read_bounded(&path, 100).is_err());
        replace(&path, b"own", 0o600, Durability::Process).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(read_bounded(&path, 3).unwrap().as_deref(), Some(b"own".as_slice()));
    }

    #[test]
    fn what_fails_or_is_given_up_leaves_the_old_file_and_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old", 0o600, Durability::Process).unwrap();
        // What a kill left beside it.
        fs::write(folder.path().join(".file.new0"), "half").unwrap();
        let given_up = |_: &File| Err(io::Error::new(io::ErrorKind::TimedOut, "it was given up"));
        let error = replace_if(&path, b"new", 0o600, Durability::PowerCut, given_up).unwrap_err();
        assert_eq!(error.to_string(), format!("write {}: it was given up", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["file"]);
        let error = replace(&folder.path().join("no/file"), b"", 0o600, Durability::Process).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn two_who_replace_a_file_at_once_each_leave_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let turn = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for byte in [b'a', b'b'] {
                let (path, turn) = (&path, &turn);
                scope.spawn(move || {
                    for _ in 0..50 {
                        turn.wait();
                        replace(path, &vec![byte; 100_000], 0o600, Durability::Process).unwrap();
                        turn.wait();
                        let found = fs::read(path).unwrap();
                        assert!(found.len() == 100_000 && found.iter().all(|b| *b == found[0]));
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_file_is_written_only_when_content_or_mode_differ() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.conf");
        let write =
            |content: &[u8], mode| replace_changed(&path, content, mode, Durability::Process).unwrap();
        assert!(write(b"one", 0o600));
        assert!(!write(b"one", 0o600));
        assert!(write(b"two", 0o600));
        assert!(write(b"two", 0o644));
        assert!(write(b"tw", 0o644));
    }

    #[test]
    fn what_is_read_is_bounded_and_nobody_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read_bounded(&path, 10).unwrap().is_none());
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read_bounded(&path, 10).unwrap_err();
        assert!(error.to_string().ends_with("not a regular file"), "{error}");
        remove(&path, Durability::PowerCut).unwrap();
        remove(&path, Durability::PowerCut).unwrap();
        // Sparse, and no byte more of it is held than the limit.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_bounded(&path, 10).unwrap_err();
        assert!(error.to_string().ends_with("longer than 10 bytes"), "{error}");
    }
}
