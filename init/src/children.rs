//! PID 1's own children: starting them, reaping everything that ends, and telling its own from the rest.
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use machine::socket::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sys::spawn::Program;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use crate::ledger::Ledger;

/// The most output of a tool that is kept for its error message.
const TOOL_OUTPUT: usize = 16 << 10;

/// How long starting a program may take: its first pages come from the boot medium.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// How many ends are looked at in a row.
const BATCH: usize = 256;
/// The most ends remembered while programs are being started; a program that ends at once is among the last ones.
const EARLY: usize = 4_096;

/// What a round of reaping leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    All,
    /// There are more; others want their turn too.
    More,
    /// One whose start time cannot be read now; without it nobody could tell it from a later one of the same pid.
    Later,
}

/// Cloneable handle to the table of started children.
#[derive(Debug, Clone, Default)]
pub struct Children {
    table: Arc<Mutex<Table>>,
    ledger: Ledger,
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<i32, oneshot::Sender<i32>>,
    /// Programs whose start is not back yet. One that hangs is not tried again.
    starting: Vec<PathBuf>,
    /// What has ended while something was being started: it may be that.
    early: VecDeque<(i32, i32)>,
}

impl Children {
    /// A table whose strangers go to `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self { table: Arc::default(), ledger }
    }

    /// Starts a program; the receiver yields its wait status. It waits on another thread for the program to be there, for some seconds at most: one that
    /// comes later is killed.
    ///
    /// # Errors
    /// As [`sys::spawn::spawn`]; `TimedOut` when it is not there in time, `WouldBlock` when an earlier start of it still hangs.
    pub fn start(&self, program: Program) -> io::Result<(i32, oneshot::Receiver<i32>)> {
        let path = program.path.clone();
        {
            let mut table = self.lock();
            if table.starting.contains(&path) {
                let why = format!("an earlier start of {} hangs", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            if table.starting.is_empty() {
                table.early.clear();
            }
            table.starting.push(path.clone());
        }
        let (started, outcome) = std::sync::mpsc::sync_channel(0);
        let (children, own) = (self.clone(), path.clone());
        let start = move || {
            let result = sys::spawn::spawn(program);
            if let Err(std::sync::mpsc::SendError(late)) = started.send(result) {
                // Nobody takes it any more: it must not run without anybody who watches over it.
                if let Ok(pid) = late {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                children.is_started(&own);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("start".into()).spawn(start) {
            self.is_started(&path);
            return Err(error);
        }
        let Ok(started) = outcome.recv_timeout(START_DEADLINE) else {
            let text = format!("{} is not started after {} s", path.display(), START_DEADLINE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        let waiting = started.map(|pid| (pid, self.wait_for(pid)));
        self.is_started(&path);
        waiting
    }

    /// The end of a child that was just started, even one that was reaped before this call.
    fn wait_for(&self, pid: i32) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.lock();
        match table.early.iter().rposition(|(early, _)| *early == pid) {
            Some(at) => {
                let status = table.early.remove(at).map_or(0, |(_, status)| status);
                let _ = sender.send(status);
            }
            None => drop(table.waiting.insert(pid, sender)),
        }
        receiver
    }

    fn is_started(&self, path: &Path) {
        let mut table = self.lock();
        table.starting.retain(|starting| starting != path);
    }

    /// Reaps what has ended, a batch at most.
    pub fn reap(&self) -> Reaped {
        for _ in 0..BATCH {
            match sys::wait::next_ended() {
                Ok(Some(pid)) => {
                    if !self.reap_one(pid) {
                        return Reaped::Later;
                    }
                }
                Ok(None) => return Reaped::All,
                Err(error) => {
                    tracing::error!("wait for children: {error}");
                    return Reaped::All;
                }
            }
        }
        Reaped::More
    }

    /// Reaps one that has ended and tells its end. False: it stays, for now.
    fn reap_one(&self, pid: i32) -> bool {
        let own = self.lock().waiting.remove(&pid);
        // Of a stranger, what tells it from others, while it is still there.
        let stranger = match own {
            Some(_) => None,
            None => match sys::pidfd::start_time(pid) {
                Ok(start_time) => Some(start_time),
                Err(error) => {
                    tracing::warn!("read when {pid} started: {error}; it is reaped later");
                    return false;
                }
            },
        };
        let cgroup = stranger.map(|_| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default());
        let status = match sys::wait::reap(pid) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!("reap {pid}: {error}");
                return true;
            }
        };
        if let Some(sender) = own {
            // Nobody waits any more when the receiver is gone.
            let _ = sender.send(status);
        }
        if let Some(start_time) = stranger {
            self.note_early(pid, status);
            let unix_nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
            let exit = Exit { pid, start_time, wait_status: status, unix_nanos };
            self.ledger.enter(exit, owner(&cgroup.unwrap_or_default()));
        }
        true
    }

    /// It goes to the ledger all the same: a start that hangs must delay nobody's exit, and an entry that nobody knows is acknowledged as such.
    fn note_early(&self, pid: i32, status: i32) {
        let mut table = self.lock();
        if table.starting.is_empty() {
            return;
        }
        if table.early.len() == EARLY {
            table.early.pop_front();
        }
        table.early.push_back((pid, status));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a tool of the image to its end and returns its exit code and output; kills it at the deadline.
    ///
    /// # Errors
    /// When it cannot be started, is killed, or is not done in time.
    pub async fn run_tool(
        &self,
        path: &str,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<(i32, String)> {
        let (read, write) = std::io::pipe()?;
        let program = Program {
            path: PathBuf::from(path),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment: vec![("PATH".into(), crate::services::PATH.into())],
            cgroup_procs: None,
            user: None,
            capabilities: Vec::new(),
            output: OwnedFd::from(write),
            channel: None,
            oom_score_adj: None,
        };
        let (pid, ended) = self.start(program).with_context(|| format!("start {path}"))?;
        let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into())?;
        let run = async {
            let mut output = Vec::new();
            let mut chunk = vec![0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
                let room = TOOL_OUTPUT.saturating_sub(output.len());
                output.extend_from_slice(&chunk[..count.min(room)]);
            }
            (ended.await, output)
        };
        let Ok((status, output)) = tokio::time::timeout(deadline, run).await else {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            bail!("{path} is not done after {} s and was killed", deadline.as_secs());
        };
        let status = status.with_context(|| format!("{path}'s end was not seen"))?;
        let output = String::from_utf8_lossy(&output).trim().to_owned();
        if nix::libc::WIFEXITED(status) {
            return Ok((nix::libc::WEXITSTATUS(status), output));
        }
        bail!("{path}: {} ({output})", sys::wait::describe(status))
    }
}

/// The cgroup that an exit counts for: of a pod its containers', whatever they make below. From /proc/PID/cgroup, as of cgroup2.
fn owner(cgroup: &str) -> &str {
    /// `kubepods/<QoS class>/pod<uid>/<container>`.
    const DEPTH: usize = 4;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.match_indices('/').nth(DEPTH - 1).map_or(path, |(end, _)| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_counts_for_its_container() {
        let of = |path: &str| owner(path).to_owned();
        assert_eq!(of("0::/kubepods/burstable/pod1/c\n"), "kubepods/burstable/pod1/c");
        assert_eq!(of("4:cpu:/x\n0::/kubepods/burstable/pod1/c/made/below\n"), "kubepods/burstable/pod1/c");
        assert_eq!(of("0::/kubepods/pod1/c (deleted)\n"), "kubepods/pod1/c");
        assert_eq!(of("0::/runtime\n"), "runtime");
        assert_eq!(of(""), "");
    }

    fn shell(command: &str) -> Program {
        let (_read, write) = std::io::pipe().unwrap();
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), command.into()],
            environment: vec![],
            cgroup_procs: None,
            user: None,
            capabilities: vec![],
            output: write.into(),
            channel: None,
            oom_score_adj: None,
        }
    }

    /// Reaps `pid` as the reaper does. Other tests have children too, which are theirs to reap.
    fn end(children: &Children, pid: i32) {
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(Pid::from_raw(pid)), flags).unwrap();
        assert!(children.reap_one(pid));
    }

    #[test]
    fn an_own_child_is_told_to_its_waiter_and_a_stranger_to_the_ledger() {
        let ledger = Ledger::default();
        let children = Children::new(ledger.clone());
        let (own, mut told) = children.start(shell("exit 5")).unwrap();
        end(&children, own);
        assert_eq!(sys::wait::describe(told.try_recv().unwrap()), "exit code 5");
        assert!(ledger.after(0, 10).is_empty(), "what init has started is nobody else's");
        let stranger = sys::spawn::spawn(shell("exit 6")).unwrap();
        let started = sys::pidfd::start_time(stranger).unwrap();
        end(&children, stranger);
        let kept = ledger.after(0, 10);
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].1.pid, kept[0].1.start_time, kept[0].1.wait_status), (stranger, started, 6 << 8));
    }

    #[test]
    fn a_child_that_ends_before_its_start_is_back_is_told_all_the_same() {
        let children = Children::default();
        children.lock().starting.push("/bin/sh".into());
        let pid = sys::spawn::spawn(shell("exit 7")).unwrap();
        end(&children, pid);
        children.is_started(Path::new("/bin/sh"));
        assert_eq!(children.wait_for(pid).try_recv(), Ok(7 << 8));
    }

    #[test]
    fn a_program_whose_start_hangs_is_not_started_again_and_holds_up_no_other() {
        let children = Children::default();
        children.lock().starting.push("/bin/hanging".into());
        let again = children.start(Program { path: "/bin/hanging".into(), ..shell("") }).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        let (pid, mut told) = children.start(shell("exit 3")).unwrap();
        end(&children, pid);
        assert_eq!(told.try_recv(), Ok(3 << 8));
    }
}
