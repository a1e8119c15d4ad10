//! Clocks that nobody sets. The time of day jumps when a time server answers; no deadline hangs on it.
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine started, suspension included (CLOCK_BOOTTIME of clock_gettime(2)).
pub fn boottime() -> Duration {
    // Can only fail for a clock that the kernel does not know.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The kernel's name for the time since it started: another after each boot.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A moment that may be written down: it means something during one boot only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// As [`boot_id`].
    pub boot: String,
    /// As [`boottime`].
    pub at: Duration,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// As [`boot_id`].
    pub fn now() -> io::Result<Self> {
        Ok(Self { boot: boot_id()?, at: boottime() })
    }

    /// How much time has passed since `earlier`; none when that was during another boot, or is later.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        if self.boot == earlier.boot { self.at.checked_sub(earlier.at) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_other_boots_cannot_be_compared() {
        let moment = |boot: &str, at| Moment { boot: boot.into(), at: Duration::from_secs(at) };
        assert_eq!(moment("a", 7).since(&moment("a", 5)), Some(Duration::from_secs(2)));
        assert_eq!(moment("a", 7).since(&moment("b", 5)), None);
        assert_eq!(moment("a", 5).since(&moment("a", 7)), None);
        let (first, second) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert!(second.since(&first).is_some());
    }
}
