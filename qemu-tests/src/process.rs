//! A process told apart from a later one with the same id.
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Id and start time (clock ticks since the host booted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub pid: i32,
    pub start_time: u64,
}

impl Process {
    /// Describes a running process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} does not run"))?;
        let (_, start_time) = state_and_start(&stat).with_context(|| format!("read /proc/{pid}/stat"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn runs(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        state_and_start(&stat).is_some_and(|(state, start)| state != 'Z' && start == self.start_time)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When it may not be killed or does not end within ten seconds.
    pub fn kill(&self) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)
            .with_context(|| format!("kill process {}", self.pid))?;
        anyhow::ensure!(
            self.wait(Duration::from_secs(10)),
            "process {} did not end within 10 s of SIGKILL",
            self.pid
        );
        Ok(())
    }

    /// Waits for its end; false at the deadline.
    #[must_use]
    pub fn wait(&self, deadline: Duration) -> bool {
        let start = Instant::now();
        while self.runs() {
            if start.elapsed() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }
}

/// State letter and start time: fields 3 and 22; the name before them may hold blanks and parentheses.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_confuse() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(state_and_start(stat), Some(('S', 4242)));
    }

    #[test]
    fn a_process_of_another_time_is_another_process() -> Result<()> {
        let me = Process::of(i32::try_from(std::process::id())?)?;
        assert!(me.runs());
        assert!(!Process { start_time: me.start_time + 1, ..me }.runs());
        Ok(())
    }
}
