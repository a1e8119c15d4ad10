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
