//! A watchdog device (Documentation/watchdog/watchdog-api.rst).
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

const WDIOC_SETTIMEOUT: u64 = 0xc004_5706;

/// An armed watchdog. Dropping it leaves it armed; [`Watchdog::disarm`] ends it.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Arms the device, which resets the machine when it is not fed for `seconds`. Also returns the timeout that the device took.
    ///
    /// # Errors
    /// When it is not there, in use, or takes no such timeout.
    pub fn arm(device: &Path, seconds: u32) -> io::Result<(Self, u32)> {
        let file = OpenOptions::new().write(true).open(device)?;
        let mut timeout = libc::c_int::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int at the address given.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut timeout) })?;
        Ok((Self(file), u32::try_from(timeout).unwrap_or(seconds)))
    }

    /// A sign of life.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn feed(&mut self) -> io::Result<()> {
        self.0.write_all(b"\0")
    }

    /// Ends it, where the driver allows that.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn disarm(mut self) -> io::Result<()> {
        self.0.write_all(b"V")
    }
}
