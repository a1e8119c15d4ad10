//! Where a log lies. Whoever has the folder of logs mounted can put something else there: a FIFO that holds
//! up whoever opens it, a link or a hard link that leads writes to another file, a device. So a log is opened
//! from folder to folder by descriptor, and what is no plain file of one name alone is removed, and the log
//! made anew.
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;

/// How often something else may come in the way before it is an error: whoever puts it there can go on doing
/// so.
const ATTEMPTS: usize = 8;
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const WRITE: OFlags = OFlags::RDWR.union(OFlags::APPEND).union(OFlags::CLOEXEC);
/// Those who may read logs may come to them.
const FOLDER: Mode = Mode::from_raw_mode(0o755);
/// Logs are for root and its group.
const FILE: Mode = Mode::from_raw_mode(0o640);

/// The place of a log: its folder, and its name there.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    /// Finds it, and makes its folders. Below the folder that holds that of pods' logs no link is followed: who
    /// has it mounted may also have put something in the place of that.
    ///
    /// # Errors
    /// As openat(2) and mkdirat(2), with the path.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let pods = Path::new(machine::paths::POD_LOGS);
        let base = if path.starts_with(pods) { pods.parent() } else { path.parent() };
        Self::below(base.unwrap_or(path), path)
            .map_err(|error| named("find the place of the log", path, &error))
    }

    fn below(base: &Path, path: &Path) -> io::Result<Self> {
        if !base.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(base)?;
        }
        let mut folder = open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let names = path.strip_prefix(base).map_err(io::Error::other)?.components().map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(io::Error::from(Errno::INVAL)),
        });
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let (name, folders) = names.split_last().ok_or(Errno::INVAL)?;
        for name in folders {
            folder = into(&folder, name, path)?;
        }
        Ok(Self { path: path.into(), folder, name: (*name).to_owned() })
    }

    /// Opens the log for reading and appending; makes it where there is none.
    ///
    /// # Errors
    /// As openat(2), with the path.
    pub(super) fn open(&self) -> io::Result<File> {
        self.open_or_make().map_err(|error| named("open the log", &self.path, &error))
    }

    fn open_or_make(&self) -> io::Result<File> {
        for _ in 0..ATTEMPTS {
            let found = match openat(&self.folder, &self.name, LOOK, Mode::empty()) {
                Err(Errno::NOENT) => match self.make() {
                    Err(Errno::EXIST) => continue,
                    made => return Ok(made?.into()),
                },
                found => found?,
            };
            let stat = fstat(&found)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind.is_file() && stat.st_nlink == 1 {
                return Ok(reopen(&found, WRITE)?.into());
            }
            remove(&self.folder, &self.name, kind, &self.path)?;
        }
        Err(Errno::LOOP.into())
    }

    fn make(&self) -> Result<OwnedFd, Errno> {
        let made = openat(&self.folder, &self.name, WRITE | OFlags::CREATE | OFlags::EXCL, FILE)?;
        // Whatever the umask.
        fchmod(&made, FILE)?;
        Ok(made)
    }

    /// Name and length of the file of `inode` that lies beside the log.
    pub(super) fn beside(&self, inode: u64) -> Option<(OsString, u64)> {
        use std::os::unix::fs::MetadataExt;
        let files = fs::read_dir(format!("/proc/self/fd/{}", self.folder.as_raw_fd())).ok()?;
        let mut all = files.flatten().filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?)));
        let (name, metadata) = all.find(|(_, metadata)| metadata.ino() == inode && metadata.is_file())?;
        Some((name, metadata.len()))
    }

    /// Opens what [`Place::beside`] has found, if it still is that.
    ///
    /// # Errors
    /// As openat(2); `NotFound` when it is another file.
    pub(super) fn open_beside(&self, name: &OsStr, inode: u64) -> io::Result<File> {
        let found = openat(&self.folder, name, LOOK, Mode::empty())?;
        let stat = fstat(&found)?;
        if stat.st_ino != inode || !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(reopen(&found, WRITE)?.into())
    }
}

/// The folder of that name in `folder`; made where there is none.
fn into(folder: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        let found = match openat(folder, name, LOOK, Mode::empty()) {
            Err(Errno::NOENT) => match mkdirat(folder, name, FOLDER) {
                Ok(()) => {
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = openat(folder, name, flags, Mode::empty())?;
                    fchmod(&made, FOLDER)?;
                    return Ok(made);
                }
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            },
            found => found?,
        };
        let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
        if kind.is_dir() {
            return Ok(found);
        }
        remove(folder, name, kind, path)?;
    }
    Err(Errno::LOOP.into())
}

/// Removes what lies in the way; it may be gone already.
fn remove(folder: &OwnedFd, name: &OsStr, kind: FileType, path: &Path) -> io::Result<()> {
    let flags = if kind.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(folder, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => {
            let (log, name) = (path.display(), name.display());
            tracing::warn!(%log, %name, ?kind, "removed what somebody has put in the place of a container's log");
            Ok(())
        }
    }
}

/// Opens what a descriptor leads to, and nothing else.
fn reopen(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty())
}

fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    use nix::sys::stat::Mode;

    use super::*;

    fn write(base: &Path, log: &Path) -> io::Result<()> {
        Place::below(base, log)?.open()?.write_all(b"line\n")
    }

    #[test]
    fn what_was_put_there_is_replaced_and_what_it_leads_to_stays() {
        let base = tempfile::tempdir().unwrap();
        let (base, victim) = (base.path(), base.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        let folder = base.join("pod/c");
        let log = folder.join("0.log");
        let plants: [&dyn Fn(); 5] = [
            &|| nix::unistd::mkfifo(&log, Mode::S_IRWXU).unwrap(),
            &|| symlink(&victim, &log).unwrap(),
            &|| fs::hard_link(&victim, &log).unwrap(),
            &|| fs::create_dir(&log).unwrap(),
            &|| {
                fs::create_dir(base.join("elsewhere")).unwrap();
                fs::remove_dir(&folder).unwrap();
                symlink(base.join("elsewhere"), &folder).unwrap();
            },
        ];
        for (number, plant) in plants.iter().enumerate() {
            fs::create_dir_all(&folder).unwrap();
            let _ = fs::remove_file(&log);
            plant();
            write(base, &log).unwrap();
            let metadata = fs::symlink_metadata(&log).unwrap();
            assert_eq!((metadata.is_file(), metadata.nlink(), metadata.len()), (true, 1, 5), "{number}");
            // Once it is one, it stays.
            write(base, &log).unwrap();
            assert_eq!(fs::read_to_string(&log).unwrap(), "line\nline\n");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_dir(base.join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn a_log_is_made_with_its_folders_for_those_who_read_logs() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("pod/c/0.log");
        write(base.path(), &log).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&log), mode(log.parent().unwrap())), (0o640, 0o755));
        for path in ["..", "pod/../../x", ""] {
            assert!(Place::below(base.path(), &base.path().join(path)).is_err(), "{path:?}");
        }
        // Somebody's files are not thrown away.
        let folder = base.path().join("pod/d");
        fs::create_dir_all(folder.join("full")).unwrap();
        assert!(write(base.path(), &folder).unwrap_err().to_string().contains("pod/d"));
    }

    #[test]
    fn what_lies_beside_is_found_by_its_inode() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("0.log");
        write(base.path(), &log).unwrap();
        let inode = fs::metadata(&log).unwrap().ino();
        fs::rename(&log, base.path().join("0.log.1")).unwrap();
        let place = Place::below(base.path(), &log).unwrap();
        let (name, length) = place.beside(inode).unwrap();
        assert_eq!((name.to_str(), length), (Some("0.log.1"), 5));
        place.open_beside(&name, inode).unwrap().set_len(0).unwrap();
        fs::remove_file(base.path().join("0.log.1")).unwrap();
        fs::write(base.path().join("0.log.1"), "another").unwrap();
        let error = place.open_beside(&name, inode);
        // The new file may have got the old one's inode.
        assert!(error.is_err() || place.beside(inode).is_some());
    }
}
