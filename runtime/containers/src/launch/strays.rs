//! Processes of launches that came to an untimely end: `pintle-launch` or the runtime was killed while libcontainer was at work. What it had forked
//! until then waits for ever for a word that nobody can give any more, and may only now enter (and so make anew) a cgroup that is being
//! removed. It is not told apart by a cgroup, then, but by what it holds and runs.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::program::program;
use crate::exits::Key;

/// How long killed processes may take to be gone.
const DEADLINE: Duration = Duration::from_secs(10);

/// A process that still runs `pintle-launch`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    key: Key,
    /// Where its descriptors lead, as /proc tells.
    descriptors: Vec<PathBuf>,
}

/// Which of them have nobody left.
#[derive(Debug)]
enum Which<'a> {
    /// Of a life of the runtime that has ended: all but those on record.
    Former(&'a BTreeSet<Key>),
    /// Of one launch, by the inode of the socket that it was given: all that it forks holds it until it has become the user's program.
    Holders(u64),
}

impl Which<'_> {
    fn is(&self, process: &Process) -> bool {
        match self {
            Self::Former(on_record) => !on_record.contains(&process.key),
            Self::Holders(inode) => {
                let socket = PathBuf::from(format!("socket:[{inode}]"));
                process.descriptors.contains(&socket)
            }
        }
    }
}

/// Ends whatever a former life of the runtime was launching when it ended. `on_record` are processes that the records speak of. Call it before
/// anything is done about the records, and before `pintle-launch` is mounted anew.
pub async fn end_former(on_record: &BTreeSet<Key>) {
    end(&program(), &Which::Former(on_record)).await;
}

/// Ends whatever a launch has forked that was given the socket with this inode.
pub(super) async fn end_holders(inode: u64) {
    end(&program(), &Which::Holders(inode)).await;
}

/// One that is found may just have forked, so it goes on until none is found.
async fn end(program: &Path, which: &Which<'_>) {
    let started = Instant::now();
    loop {
        let strays: Vec<Process> = running(program).into_iter().filter(|process| which.is(process)).collect();
        if strays.is_empty() {
            return;
        }
        if started.elapsed() > DEADLINE {
            let pids: Vec<i32> = strays.iter().map(|process| process.key.0).collect();
            tracing::error!(?pids, "what was left of a launch was killed but has not ended within 10 s");
            return;
        }
        for Process { key: (pid, start_time), .. } in strays {
            // By a descriptor, and only if it is still the same process.
            let Ok(pidfd) = sys::pidfd::open(pid) else { continue };
            if sys::pidfd::start_time(pid).ok() == Some(start_time) {
                let _ = sys::pidfd::signal(&pidfd, nix::libc::SIGKILL);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every process that runs `program`. One that has ended runs nothing, reaped or not.
fn running(program: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            if fs::read_link(folder.join("exe")).ok()? != program {
                return None;
            }
            let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
            Some(Process {
                key: (pid, sys::pidfd::start_time(pid).ok()?),
                descriptors: descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn what_is_on_record_or_holds_another_socket_stays() {
        let process = Process { key: (7, 70), descriptors: vec!["socket:[5]".into(), "/dev/null".into()] };
        assert!(Which::Former(&BTreeSet::new()).is(&process));
        // Another process of the same pid.
        assert!(Which::Former(&BTreeSet::from([(7, 71)])).is(&process));
        assert!(!Which::Former(&BTreeSet::from([(7, 70)])).is(&process));
        assert!(Which::Holders(5).is(&process));
        assert!(!Which::Holders(50).is(&process));
    }

    /// A process with the socket as its stdin, whose parent does not wait for it yet.
    fn holder(socket: &UnixStream) -> Child {
        let stdin: OwnedFd = socket.try_clone().unwrap().into();
        Command::new("/bin/sleep").arg("1000").stdin(Stdio::from(stdin)).spawn().unwrap()
    }

    #[tokio::test]
    async fn those_that_hold_a_launchs_socket_are_ended_and_no_others() {
        use std::os::unix::process::ExitStatusExt;
        let (one, other) = UnixStream::pair().unwrap();
        let (mut stray, mut bystander) = (holder(&one), holder(&other));
        let program = fs::canonicalize("/bin/sleep").unwrap();
        let inode = nix::sys::stat::fstat(&one).unwrap().st_ino;
        end(&program, &Which::Holders(inode)).await;
        assert_eq!(stray.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
        assert_eq!(bystander.try_wait().unwrap(), None);
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
