//! Terminals (ioctl_tty(2)).
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Sets a terminal's size in characters; its foreground processes get SIGWINCH.
///
/// # Errors
/// As ioctl_tty(2).
pub fn set_size(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a live winsize that the kernel only reads.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
