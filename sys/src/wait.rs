//! Reaping (waitid(2), wait4(2)) in two steps, so that /proc still tells about a process when its exit is noted.
use std::io;

use nix::errno::Errno;
use nix::libc;

/// A child that has ended and still is a zombie; `None` when no child has ended (or there is no child).
///
/// # Errors
/// As waitid(2).
pub fn next_ended() -> io::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain old data for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writing for the length of the call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    match Errno::result(result) {
        // SAFETY: waitid(2) has either filled in the SIGCHLD fields or left the zeros in place; both are initialised.
        Ok(_) => Ok(Some(unsafe { info.si_pid() }).filter(|pid| *pid != 0)),
        Err(Errno::ECHILD | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reaps the ended child `pid` and returns its wait status.
///
/// # Errors
/// `ECHILD` when it is no child of ours or was reaped already; `EAGAIN` when it still runs.
pub fn reap(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is valid for writing for the length of the call.
    let result = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    match Errno::result(result)? {
        0 => Err(Errno::EAGAIN.into()),
        _ => Ok(status),
    }
}

/// Says a wait status in words.
pub fn describe(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        let name = nix::sys::signal::Signal::try_from(signal).map_or("signal", |s| s.as_str());
        format!("killed by {name} ({signal})")
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_words() {
        assert_eq!(describe(3 << 8), "exit code 3");
        assert_eq!(describe(9), "killed by SIGKILL (9)");
    }
}
