//! A watchdog device (Documentation/watchdog/watchdog-api.rst).
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

const WDIOC_SETTIMEOUT: u64 = 0xc004_5706;

/// Why a device is not armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// Nothing was changed; it may be there later.
    #[error("open it: {0}")]
    Open(io::Error),
    /// Opening has armed it, and it was disarmed again. Trying again would feed it by accident.
    #[error("set a timeout of {seconds} s: {why}")]
    Timeout { seconds: u32, why: io::Error },
}

/// An armed watchdog. Dropping it leaves it armed; [`Watchdog::disarm`] ends it.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Arms the device, which resets the machine when it is not fed for `seconds`. Also returns the timeout that the device took.
    ///
    /// # Errors
    /// When it is not there, in use, or takes no such timeout; it is not armed then.
    pub fn arm(device: &Path, seconds: u32) -> Result<(Self, u32), ArmError> {
        let armed = Self(OpenOptions::new().write(true).open(device).map_err(ArmError::Open)?);
        match armed.set_timeout(seconds) {
            Ok(taken) => Ok((armed, taken)),
            Err(why) => {
                // Closing alone would leave it armed, and the machine would be reset. What the driver says to that changes nothing here.
                let _ = armed.disarm();
                Err(ArmError::Timeout { seconds, why })
            }
        }
    }

    fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut timeout = libc::c_int::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int at the address given.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut timeout) })?;
        Ok(u32::try_from(timeout).unwrap_or(seconds))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_refuses_the_timeout_is_disarmed() {
        // A file takes no timeout either, and keeps what was written to it.
        let folder = std::env::temp_dir().join(format!("pintle-watchdog-{}", std::process::id()));
        std::fs::write(&folder, "").unwrap();
        let error = Watchdog::arm(&folder, 60).unwrap_err();
        assert!(matches!(error, ArmError::Timeout { seconds: 60, .. }), "{error}");
        assert_eq!(std::fs::read(&folder).unwrap(), b"V", "the magic close of watchdog-api.rst");
        std::fs::remove_file(&folder).unwrap();
        assert!(matches!(Watchdog::arm(&folder, 60), Err(ArmError::Open(_))));
    }
}
