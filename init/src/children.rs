//! PID 1's own children: starting them, reaping everything that ends, and telling its own from the rest.
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use machine::socket::Exit;
use sys::spawn::Program;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use crate::ledger::Ledger;

/// The most output of a tool that is kept for its error message.
const TOOL_OUTPUT: usize = 16 << 10;

/// Cloneable handle to the table of started children.
#[derive(Debug, Clone, Default)]
pub struct Children {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<i32>>>>,
    ledger: Ledger,
}

impl Children {
    /// A table whose strangers go to `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self { waiting: Arc::default(), ledger }
    }

    /// Starts a program; the receiver yields its wait status.
    ///
    /// # Errors
    /// As [`sys::spawn::spawn`].
    pub fn start(&self, program: Program) -> std::io::Result<(i32, oneshot::Receiver<i32>)> {
        let (sender, receiver) = oneshot::channel();
        // Held over the start, so that a child that ends at once is not taken for a stranger.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = sys::spawn::spawn(program)?;
        waiting.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Reaps everything that has ended.
    pub fn reap(&self) {
        loop {
            match sys::wait::next_ended() {
                Ok(Some(pid)) => self.reap_one(pid),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("wait for children: {error}");
                    return;
                }
            }
        }
    }

    fn reap_one(&self, pid: i32) {
        let own = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        let stat =
            if own.is_none() { fs::read_to_string(format!("/proc/{pid}/stat")) } else { Ok(String::new()) };
        let status = match sys::wait::reap(pid) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!("reap {pid}: {error}");
                return;
            }
        };
        match own {
            // Nobody waits any more when the receiver is gone.
            Some(sender) => drop(sender.send(status)),
            None => self.ledger.enter(Exit {
                pid,
                start_time: stat.ok().and_then(|text| start_time(&text)).unwrap_or(0),
                wait_status: status,
                unix_nanos: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64),
            }),
        }
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
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
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

/// Field 22 of /proc/PID/stat; the second field, a name in parentheses, may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat =
            "42 (a) b (c)) Z 1 42 42 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 5123 0 0 18446744073709551615";
        assert_eq!(start_time(stat), Some(5123));
        assert_eq!(start_time("rubbish"), None);
    }

    #[test]
    fn own_children_report_to_their_waiter() {
        let children = Children::default();
        let (_read, write) = std::io::pipe().unwrap();
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), "exit 5".into()],
            environment: vec![],
            cgroup_procs: None,
            user: None,
            capabilities: vec![],
            output: write.into(),
            channel: None,
            oom_score_adj: None,
        };
        let (pid, ended) = children.start(program).unwrap();
        let status = loop {
            match sys::wait::reap(pid) {
                Ok(status) => break status,
                Err(e) if e.raw_os_error() == Some(nix::libc::EAGAIN) => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        };
        assert_eq!(sys::wait::describe(status), "exit code 5");
        drop(ended);
    }
}
