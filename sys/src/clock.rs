//! The system clock: set at once, or steered without a jump.
use std::io;

use nix::libc;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Adds `offset` nanoseconds to the clock at once.
///
/// # Errors
/// `InvalidInput` for a time before 1970; otherwise as clock_settime(2).
pub fn step(offset: i64) -> io::Result<()> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?.num_nanoseconds();
    let then = now.checked_add(offset).filter(|then| *then >= 0);
    let then =
        then.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the time would be before 1970"))?;
    Ok(clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(then))?)
}

/// Lets the clock run faster or slower (by 500 parts in a million) until it has gained `offset` nanoseconds. Replaces what was left of an
/// earlier call.
///
/// # Errors
/// As adjtimex(2).
pub fn slew(offset: i64) -> io::Result<()> {
    // SAFETY: timex is a plain C struct for which all zeroes is a valid value.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_OFFSET_SINGLESHOT;
    request.offset = offset / 1000;
    // SAFETY: the request is a live, exclusively borrowed timex, which the kernel reads and writes during the call only.
    nix::errno::Errno::result(unsafe { libc::adjtimex(&raw mut request) })?;
    Ok(())
}

/// Tells the kernel that the clock is right, so that it keeps the hardware clock at it (every eleven minutes, `CONFIG_RTC_SYSTOHC`). It holds until the
/// clock jumps, or for nine hours without another call.
///
/// # Errors
/// As adjtimex(2).
pub fn mark_synchronized() -> io::Result<()> {
    // SAFETY: timex is a plain C struct for which all zeroes is a valid value; with no modes it is only read into.
    let mut now: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a live, exclusively borrowed timex, which the kernel writes during the call only.
    nix::errno::Errno::result(unsafe { libc::adjtimex(&raw mut now) })?;
    let mut request = synchronized(&now);
    // SAFETY: as above; it is read and written during the call only.
    nix::errno::Errno::result(unsafe { libc::adjtimex(&raw mut request) })?;
    Ok(())
}

/// The request that makes a clock in the state `now` a synchronized one: no flag but STA_UNSYNC changes, and the largest error counts from now.
fn synchronized(now: &libc::timex) -> libc::timex {
    libc::timex {
        modes: libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR,
        status: now.status & !libc::STA_UNSYNC,
        maxerror: 0,
        esterror: 0,
        ..*now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synchronized_clock_lets_the_kernel_keep_the_hardware_clock() {
        // SAFETY: timex is a plain C struct for which all zeroes is a valid value.
        let mut now: libc::timex = unsafe { std::mem::zeroed() };
        now.status = libc::STA_UNSYNC | libc::STA_NANO;
        now.maxerror = 16_000_000;
        let request = synchronized(&now);
        assert_eq!((request.status, request.maxerror), (libc::STA_NANO, 0));
        let changes = libc::ADJ_OFFSET | libc::ADJ_FREQUENCY | libc::ADJ_SETOFFSET | libc::ADJ_TICK;
        assert_eq!(request.modes & changes, 0, "the time itself is not touched");
        assert_ne!(request.modes & libc::ADJ_STATUS, 0);
    }
}
