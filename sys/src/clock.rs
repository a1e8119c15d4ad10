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
