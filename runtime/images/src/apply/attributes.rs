//! What an entry says of its file besides the content.
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};

use super::error::{ApplyError, at};
use crate::tarball::Entry;

pub(super) fn timespec(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, entry.mtime.1)
}

/// Owner, mode and xattrs, in the order in which the kernel keeps all of them: a change of owner drops set-id
/// bits and capabilities.
pub(super) fn attributes(
    path: &Path,
    fd: std::os::fd::BorrowedFd<'_>,
    entry: &Entry,
) -> Result<(), ApplyError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchown(fd, Some(uid), Some(gid)).map_err(|e| at(path, e))?;
    fchmod(fd, Mode::from_bits_truncate(entry.mode)).map_err(|e| at(path, e))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| allowed_xattr(name)) {
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, rustix::fs::XattrFlags::empty()) {
            // What the file system does not have, containers do not get; containerd does the same.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(at(path, Errno::from_raw(error.raw_os_error()))),
        }
    }
    Ok(())
}

/// What an image may say about a file; `trusted.overlay.*` would speak to our own overlay mount.
fn allowed_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}
