//! What came of the specs: ginkgo's JSON report, and the closing table.
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::ginkgo::{self, Location, Spec, reason};

/// How a spec ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Passed,
    #[default]
    Failed,
    Skipped,
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// One spec and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub name: String,
    pub state: State,
    pub seconds: u64,
    /// Why it failed or was skipped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What a failed spec printed.
    #[serde(skip)]
    pub output: String,
}

impl Outcome {
    /// A spec that was interrupted.
    pub fn late(name: String, deadline: Duration) -> Self {
        let seconds = deadline.as_secs();
        let message = format!("not done within {seconds} s");
        Self { name, state: State::Failed, seconds, message, output: String::new() }
    }
}

/// Reads a report: what came of every spec that the run selected, and of a failed step before or after them all.
///
/// # Errors
/// When it is no report.
pub fn read(bytes: &[u8]) -> Result<Vec<Outcome>> {
    Ok(ginkgo::specs(bytes)?.into_iter().filter_map(outcome).collect())
}

fn outcome(spec: Spec) -> Option<Outcome> {
    let name = spec.name();
    let failure = spec.failure.unwrap_or_default();
    let state = match spec.state.as_str() {
        "passed" => State::Passed,
        // Without a message a filter left it out, or an interrupt came before it.
        "skipped" | "pending" if failure.message.is_empty() => return None,
        "skipped" | "pending" => State::Skipped,
        _ => State::Failed,
    };
    if spec.leaf_node_type != ginkgo::SPEC && state == State::Passed {
        return None;
    }
    let mut output = String::new();
    let mut message = failure.message;
    if state == State::Failed {
        let Location { file_name, line_number } = failure.location;
        let _ = write!(message, "\n({file_name}:{line_number})");
        output = spec.captured_ginkgo_writer_output + &spec.captured_output;
    }
    Some(Outcome { name, state, seconds: spec.run_time / 1_000_000_000, message, output })
}

/// For people: every spec by how it ended, the reason in a line, and the counts.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for state in [State::Passed, State::Skipped, State::Failed] {
        for outcome in outcomes.iter().filter(|outcome| outcome.state == state) {
            let _ = writeln!(text, "{state:<8} {:>5} s  {}", outcome.seconds, outcome.name);
            let reason = reason(&outcome.message);
            if !reason.is_empty() {
                let _ = writeln!(text, "                    {reason}");
            }
        }
    }
    let count = |state| outcomes.iter().filter(|outcome| outcome.state == state).count();
    let _ = write!(
        text,
        "conformance: {} passed, {} failed, {} skipped",
        count(State::Passed),
        count(State::Failed),
        count(State::Skipped)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() -> Result<()> {
        let bytes = serde_json::to_vec(&serde_json::json!([{"SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed", "RunTime": 5},
            {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "should run", "State": "passed", "RunTime": 2_500_000_000_u64},
            {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "left out", "State": "skipped", "RunTime": 0},
            {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "cannot run", "State": "skipped", "RunTime": 0,
             "Failure": {"Message": "needs two nodes"}},
            {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "fails", "State": "timedout", "RunTime": 0,
             "Failure": {"Message": "\nno pod\nat all", "Location": {"FileName": "a.go", "LineNumber": 3}}, "CapturedGinkgoWriterOutput": "STEP"},
        ]}]))?;
        let outcomes = read(&bytes)?;
        assert_eq!(
            summary(&outcomes),
            "passed       2 s  [sig-node] Pods should run\n\
             skipped      0 s  [sig-node] Pods cannot run\n                    needs two nodes\n\
             failed       0 s  [sig-node] Pods fails\n                    no pod\n\
             conformance: 1 passed, 1 failed, 1 skipped"
        );
        assert_eq!(outcomes[2].message, "\nno pod\nat all\n(a.go:3)");
        assert_eq!(outcomes[2].output, "STEP");
        Ok(())
    }
}
