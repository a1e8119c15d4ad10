//! Moving and copying bytes between pipes without reading them (splice(2), tee(2)).
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Moves at most `most` bytes that are in `from` (a pipe, a terminal) into the pipe `to`; 0 at the end of `from`. A kill in between leaves each byte in one of the two.
///
/// # Errors
/// As splice(2); `WouldBlock` when there is nothing to move or no room.
pub fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: both descriptors are open for the call, and null offsets mean the files' own.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), most, flags) };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(moved.unsigned_abs()) }
}

/// Copies at most `most` bytes of the pipe `from` into the pipe `to`; they stay in `from`.
///
/// # Errors
/// As tee(2); `WouldBlock` when there is nothing to copy or no room.
pub fn copy_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open for the call.
    let copied =
        unsafe { libc::tee(from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd(), most, libc::SPLICE_F_NONBLOCK) };
    if copied < 0 { Err(io::Error::last_os_error()) } else { Ok(copied.unsigned_abs()) }
}
