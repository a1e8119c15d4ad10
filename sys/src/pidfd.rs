//! Processes by descriptor (pidfd_open(2)), and what tells a process from a later one with the same pid.
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::Mode;

/// A descriptor of the process `pid`; readable once it has ended.
///
/// # Errors
/// As pidfd_open(2).
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to exactly this process.
///
/// # Errors
/// As pidfd_send_signal(2); `ESRCH` when it has ended and was reaped.
pub fn signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and a null siginfo is allowed: the kernel then fills it in as kill(2) would.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The wait status of a child that has ended, reaping it; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is no child of ours.
pub fn reap(pid: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: `status` is a live, writable integer for the length of the call.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Some(status)),
    }
}

/// Sets SIGCHLD's action to the default: ignored, the kernel would drop children's wait statuses.
pub fn default_sigchld() {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in signal context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sets SIGPIPE's action to the default. Rust ignores it, and what is ignored stays so over execve: `yes | head` would never end.
pub fn default_sigpipe() {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in signal context.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// When the process started, in clock ticks since boot (field 22 of /proc/PID/stat).
///
/// # Errors
/// When there is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    read_start_time(pid, std::fs::File::open(format!("/proc/{pid}/stat"))?)
}

/// As [`start_time`], of a process in the procfs `proc`: for who sees another one at /proc.
///
/// # Errors
/// As [`start_time`]'s.
pub fn start_time_in(proc: impl AsFd, pid: i32) -> io::Result<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let stat = nix::fcntl::openat(proc, format!("{pid}/stat").as_str(), flags, Mode::empty())?;
    read_start_time(pid, stat.into())
}

fn read_start_time(pid: i32, stat: std::fs::File) -> io::Result<u64> {
    parse_start_time(&io::read_to_string(stat)?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat cannot be understood"))
    })
}

/// The command may hold spaces and brackets, so fields are counted from the last bracket.
fn parse_start_time(stat: &str) -> Option<u64> {
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_hostile_command_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2";
        assert_eq!(parse_start_time(stat), Some(987_654));
        assert_eq!(parse_start_time("42 no brackets"), None);
    }

    #[test]
    fn our_own_process_has_a_descriptor_and_a_start_time() {
        let pid = std::process::id() as i32;
        signal(open(pid).unwrap(), 0).unwrap();
        assert!(start_time(pid).unwrap() > 0);
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(start_time_in(&proc, pid).unwrap(), start_time(pid).unwrap());
    }
}
