//! Descriptors that a process was started with.
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over descriptor `number` (above 2), which the parent left open for this process by agreement, and closes it on exec from now on. Call
/// it first thing in main, before anything else opens descriptors.
///
/// # Errors
/// When the descriptor is not open, is a standard stream, or was taken before.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if number <= 2 || taken.contains(&number) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} cannot be taken"),
        ));
    }
    taken.push(number);
    // SAFETY: the number is only lent to fcntl, which fails with EBADF when nothing is open there.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: fcntl has just shown that the descriptor is open; the parent opened it for us, TAKEN lets it be taken only once, and nothing
    // of this process has opened descriptors yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
