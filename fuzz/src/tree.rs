//! Walks over what was unpacked.
use std::fs::Metadata;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// Shows everything below a folder, links as links.
///
/// # Panics
/// When a folder cannot be read.
pub fn walk(folder: &Path, see: &mut impl FnMut(&Path, &Metadata)) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let stat = path.symlink_metadata().expect("a file");
        see(&path, &stat);
        if stat.is_dir() {
            walk(&path, see);
        }
    }
}

/// Whether a path is a directory's where `root` is the root directory.
///
/// # Panics
/// When `root` cannot be opened.
#[must_use]
pub fn is_directory(root: &Path, path: &Path) -> bool {
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("open the root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(&root, path, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT)).is_ok()
}
