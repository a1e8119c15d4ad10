//! Removal of what an earlier entry of the same layer has made.
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::MAX_DEPTH;

/// Removes a directory tree that no path deeper than [`MAX_DEPTH`] leads into.
pub(super) fn remove_tree(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(parent, name, flags, Mode::empty())?;
    let names: Vec<_> = dir.iter().map(|e| e.map(|e| e.file_name().to_owned())).collect::<Result<_, _>>()?;
    let fd = openat(parent, name, flags, Mode::empty())?;
    for child in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        let child = OsStr::from_bytes(child.to_bytes());
        match unlinkat(&fd, child, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => remove_tree(&fd, child, depth + 1)?,
            other => other?,
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}
