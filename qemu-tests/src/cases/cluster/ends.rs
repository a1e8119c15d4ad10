//! Pods whose container ends, and what is to be told of it.
use anyhow::{Context, Result, ensure};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::manifest;

/// Pods that end at once or a second after each other.
const PODS: usize = 6;
/// Between what a container says last and its end: the OOM killer needs a moment.
const AFTER: i64 = 10;

/// How a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Code(u8),
    Signal,
    OutOfMemory,
}

/// A pod whose container ends.
#[derive(Debug)]
pub struct Ending {
    pub name: String,
    way: Way,
    seconds: usize,
}

impl Ending {
    /// A few that end in every way; which one ends first differs from round to round.
    pub fn several(prefix: &str, round: usize) -> Vec<Self> {
        (0..PODS)
            .map(|seconds| {
                let way = match (seconds + round) % 3 {
                    0 => Way::Code(40 + seconds as u8),
                    1 => Way::Signal,
                    _ => Way::OutOfMemory,
                };
                Self { name: format!("{prefix}-{seconds}"), way, seconds }
            })
            .collect()
    }

    /// The pod, on one node.
    pub fn pod(&self, node: &str) -> Value {
        let seconds = self.seconds.to_string();
        let mut spec = match self.way {
            Way::Code(code) => manifest::once(node, &["exit", &code.to_string(), &seconds]),
            Way::Signal => manifest::once(node, &["terminate", &seconds]),
            Way::OutOfMemory => manifest::once(node, &["eat", "200", &seconds]),
        };
        match self.way {
            Way::Code(_) => {}
            // The first process of a pid namespace takes no signal from within.
            Way::Signal => spec["shareProcessNamespace"] = true.into(),
            Way::OutOfMemory => spec["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}}),
        }
        manifest::pod(&self.name, spec)
    }

    /// Code, reason and time are right. `said`: the container's output, whose line is the time at which it was about to end.
    pub fn is_told(&self, status: &Value, said: &str) -> Result<()> {
        let ended = &status["state"]["terminated"];
        let (code, reason) = match self.way {
            Way::Code(code) => (code, "Error"),
            Way::Signal => (128 + 15, "Error"),
            Way::OutOfMemory => (128 + 9, "OOMKilled"),
        };
        let name = &self.name;
        ensure!(ended["exitCode"] == code && ended["reason"] == reason, "{name} ended with {ended}");
        ensure!(status["restartCount"] == 0, "{name} was started again: {status}");
        let time = |field: &str| -> Result<Timestamp> {
            let text = ended[field].as_str().with_context(|| format!("{name} has no {field}"))?;
            text.parse().with_context(|| format!("{name}'s {field} {text}"))
        };
        let said: i64 = said.trim().parse().with_context(|| format!("{name} said {said:?}"))?;
        let said = Timestamp::from_millisecond(said)?;
        let (started, finished) = (time("startedAt")?, time("finishedAt")?);
        // The API's times are whole seconds, cut.
        let earliest = said - 1.seconds();
        ensure!(
            started <= said && earliest <= finished && finished <= said + AFTER.seconds(),
            "{name} was about to end at {said}, and is told as {ended}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_told_right_or_refused() {
        let endings = Ending::several("end", 0);
        let said = "1795822000500\n";
        let status = |code: u8, reason: &str, finished: &str, restarts: u8| {
            json!({"restartCount": restarts, "state": {"terminated": {
                "exitCode": code, "reason": reason, "startedAt": "2026-11-27T23:26:38Z", "finishedAt": finished}}})
        };
        let at = "2026-11-27T23:26:40Z";
        for (ending, code, reason) in [(0, 40, "Error"), (1, 143, "Error"), (2, 137, "OOMKilled")] {
            endings[ending].is_told(&status(code, reason, at, 0), said).unwrap();
        }
        for wrong in [
            status(41, "Error", at, 0),
            status(40, "Completed", at, 0),
            status(40, "Error", at, 1),
            status(40, "Error", "2026-11-27T23:26:38Z", 0),
            status(40, "Error", "2026-11-27T23:27:40Z", 0),
        ] {
            assert!(endings[0].is_told(&wrong, said).is_err(), "{wrong}");
        }
    }
}
