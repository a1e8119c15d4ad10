//! The pause process: pid 1 of a pod whose containers share a pid namespace. It reaps what is left to it, and owns nothing.
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid};

use super::namespaces::become_root;

/// Starts it in a new pid namespace (of the user namespace at `user`, if there is one), confined to the empty folder `root`; returns its pid.
/// It ends with `socket` unless it is told there to stay: until it is on record, nobody else would end it.
///
/// # Errors
/// As unshare(2) and execve(2).
pub fn start(root: &Path, user: Option<&Path>, socket: &OwnedFd) -> io::Result<i32> {
    if let Some(path) = user {
        nix::sched::setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWUSER)?;
        become_root()?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
    let child = Command::new("/proc/self/exe")
        .arg("pause")
        .arg(root)
        .env_clear()
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child.id() as i32)
}

/// The process itself.
pub fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(2) else { return ExitCode::FAILURE };
    let Ok(nothing) = std::fs::File::open("/dev/null") else { return ExitCode::FAILURE };
    // Containers of the pod see this process: it must be worth nothing to them.
    let confined = nix::unistd::chroot(Path::new(&root))
        .and_then(|()| nix::unistd::chdir("/"))
        .and_then(|()| nix::unistd::setgroups(&[]))
        .and_then(|()| nix::unistd::setresgid(NOBODY_GROUP, NOBODY_GROUP, NOBODY_GROUP))
        .and_then(|()| nix::unistd::setresuid(NOBODY, NOBODY, NOBODY));
    if confined.is_err() {
        return ExitCode::FAILURE;
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() || told_to_stay().is_err() || nix::unistd::dup2_stdin(nothing).is_err()
    {
        return ExitCode::FAILURE;
    }
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        if let Ok(Signal::SIGTERM | Signal::SIGINT) = signals.wait() {
            return ExitCode::SUCCESS;
        }
    }
}

/// Waits for an empty frame.
fn told_to_stay() -> io::Result<()> {
    io::stdin().lock().read_exact(&mut [0; 4])
}

const NOBODY: Uid = Uid::from_raw(65535);
const NOBODY_GROUP: Gid = Gid::from_raw(65535);
