//! Waiting for descriptors without a thread (epoll(7), through tokio).
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor; make it non-blocking to read from it.
///
/// # Errors
/// As epoll_ctl(2): not for plain files.
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the OwnedFd, whose number is the same for as long as it lives, and which is closed only after
    // the registration is gone.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
