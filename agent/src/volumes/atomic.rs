//! The kubelet's atomic writer: `..data` links to a directory with a timestamp in its name, and is replaced by a rename.
//!
//! Only the agent writes below such a volume (containers see it read-only), so paths here cannot be exchanged by a pod.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use crate::shared_file;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// One file to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) data: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner, if not root.
    pub(super) user: Option<u32>,
}

/// Files by path within the volume.
pub(super) type Payload = BTreeMap<String, File>;

/// Makes the volume at `dir` show exactly `payload`. `set_ownership` runs on the whole volume before the new files become visible.
/// Returns whether anything had to be written.
pub(super) fn write(
    dir: &Path,
    payload: &Payload,
    set_ownership: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path).map_err(io::Error::other)?;
    }
    let payload: Payload = payload.iter().map(|(path, file)| (clean(path), file.clone())).collect();
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(dir.join(target.file_name().unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let stale = old.as_deref().map(|old| paths_to_remove(old, &payload)).transpose()?.unwrap_or_default();
    let current = old.as_deref().is_some_and(|old| stale.is_empty() && same(old, &payload));
    if !current {
        let new = timestamp_dir(dir)?;
        let written =
            write_files(&new, &payload).and_then(|()| set_ownership(dir)).and_then(|()| swap(dir, &new));
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&new);
            return Err(error);
        }
    }
    link_visible(dir, &payload)?;
    for path in top_level(stale.iter()) {
        if !payload.keys().any(|kept| kept == path || kept.starts_with(&format!("{path}/"))) {
            remove_link(&dir.join(path))?;
        }
    }
    remove_leftovers(dir)?;
    Ok(!current)
}

/// The rules for a path within a volume.
fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() || path.starts_with('/') || path.len() > MAX_PATH {
        return Err(format!(
            "invalid path {path:?}: it must be relative, not empty and at most {MAX_PATH} bytes long"
        ));
    }
    let mut items = path.split('/');
    if items.clone().any(|item| item == ".." || item.len() > MAX_NAME) {
        return Err(format!(
            "invalid path {path:?}: it must not contain '..' or a name above {MAX_NAME} bytes"
        ));
    }
    if items.next().is_some_and(|first| first.starts_with("..")) {
        return Err(format!("invalid path {path:?}: it must not start with '..'"));
    }
    Ok(())
}

fn clean(path: &str) -> String {
    let parts = Path::new(path).components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// What the old directory has and the new payload has not, relative to it.
fn paths_to_remove(old: &Path, payload: &Payload) -> io::Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(old.join(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                paths.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    paths.retain(|path| !payload.contains_key(path));
    Ok(paths)
}

fn same(old: &Path, payload: &Payload) -> bool {
    let holds = |path: &str, data: &[u8]| shared_file::holds(&shared_file::open(&old.join(path))?, data);
    payload.iter().all(|(path, file)| holds(path, &file.data).unwrap_or(false))
}

/// `..2006_01_02_15_04_05.<number>`, new.
fn timestamp_dir(dir: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    for attempt in 0..1000_u32 {
        let path =
            dir.join(format!("{stamp}.{}", now.subsec_nanosecond().unsigned_abs().wrapping_add(attempt)));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write_files(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode))?;
        if let Some(user) = file.user {
            chown(&full, Some(user), None)?;
        }
    }
    Ok(())
}

fn swap(dir: &Path, new: &Path) -> io::Result<()> {
    let temporary = dir.join(NEW_DATA);
    // Left by an agent that died here.
    remove_link(&temporary)?;
    symlink(new.file_name().unwrap_or_default(), &temporary)?;
    fs::rename(&temporary, dir.join(DATA))
}

fn link_visible(dir: &Path, payload: &Payload) -> io::Result<()> {
    for name in top_level(payload.keys()) {
        let link = dir.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

fn top_level<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    paths.filter_map(|path| path.split('/').next()).collect()
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes every timestamp directory but the current one.
fn remove_leftovers(dir: &Path) -> io::Result<()> {
    let current = fs::read_link(dir.join(DATA))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stamped = name.to_str().is_some_and(|name| name.starts_with("..2"));
        if stamped && Path::new(&name) != current && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
