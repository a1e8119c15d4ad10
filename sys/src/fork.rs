//! Forking (fork(2)) where it is safe: in a process that has one thread.
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::ForkResult;

/// Forks. The child drops `kept`, does `child` and ends with the exit code that it returns, 255 after a panic. Returns the child's pid, and `kept`.
///
/// # Errors
/// `EINVAL` in a process with further threads; as fork(2).
pub fn fork<K>(kept: K, child: impl FnOnce() -> i32) -> io::Result<(i32, K)> {
    // This changes nothing, but the kernel refuses it while another thread shares our memory.
    unshare(CloneFlags::CLONE_VM)?;
    // SAFETY: as this is the only thread, no lock is held by one that the child would not have, and the child may do whatever its parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok((child.as_raw(), kept)),
        ForkResult::Child => {
            let all = || {
                drop(kept);
                child()
            };
            let code = catch_unwind(AssertUnwindSafe(all)).unwrap_or(255);
            // SAFETY: it ends the process at once. What the parent has registered for its own end must not be done twice.
            unsafe { libc::_exit(code) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv().is_ok());
        let error = fork((), || 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        drop(sender);
        assert!(!thread.join().unwrap());
    }
}
