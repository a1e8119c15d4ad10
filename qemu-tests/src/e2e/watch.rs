//! What the suite prints, read as it appears: which spec runs, since when, and what came of it.
use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::report::{Outcome, State};

/// A line that tells something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Began { number: usize, all: usize, name: String },
    Ended { name: String, state: State, seconds: u64 },
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Began { number, all, name } => write!(out, "{number}/{all}  {name}"),
            Self::Ended { state, seconds, .. } => write!(out, "       {state} ({seconds} s)"),
        }
    }
}

/// Follows one run.
#[derive(Debug)]
pub struct Watch<'a> {
    names: &'a BTreeSet<String>,
    all: usize,
    current: Option<(&'a str, Instant)>,
    done: Vec<Outcome>,
}

impl<'a> Watch<'a> {
    /// `names` are those of this run; `all` counts earlier runs too.
    pub const fn new(names: &'a BTreeSet<String>, all: usize) -> Self {
        Self { names, all, current: None, done: Vec::new() }
    }

    /// The spec that runs.
    pub fn current(&self) -> Option<&str> {
        self.current.map(|(name, _)| name)
    }

    /// The spec that has run for longer than `deadline`.
    pub fn late(&self, deadline: Duration, now: Instant) -> Option<&str> {
        self.current.filter(|(_, since)| now.duration_since(*since) > deadline).map(|(name, _)| name)
    }

    /// What was seen, when there is no report.
    pub fn into_outcomes(self) -> Vec<Outcome> {
        self.done
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &str, now: Instant) -> Option<Change> {
        let Some((name, since)) = self.current else {
            let name = self.spec(line)?;
            // Ginkgo says the name of a spec again when it has ended.
            if self.done.iter().any(|outcome| outcome.name == name) {
                return None;
            }
            self.current = Some((name, now));
            let number = self.all - self.names.len() + self.done.len() + 1;
            return Some(Change::Began { number, all: self.all, name: name.to_owned() });
        };
        let state = state(line)?;
        self.current = None;
        let seconds = now.duration_since(since).as_secs();
        self.done.push(Outcome { name: name.to_owned(), state, seconds, ..Outcome::default() });
        Some(Change::Ended { name: name.to_owned(), state, seconds })
    }

    /// The longest name that the line begins with; labels may follow it.
    fn spec(&self, line: &str) -> Option<&'a str> {
        self.names
            .iter()
            .filter(|name| {
                line.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ["))
            })
            .max_by_key(|name| name.len())
            .map(String::as_str)
    }
}

/// Ginkgo's first line about a spec that has ended: `• [3.1 seconds]`, `• [FAILED] …`, `• [INTERRUPTED] …`, `S [SKIPPED] …`.
fn state(line: &str) -> Option<State> {
    if line.starts_with("S [SKIPPED]") || line.starts_with("P [PENDING]") {
        return Some(State::Skipped);
    }
    let rest = line.strip_prefix("• [")?;
    Some(if rest.starts_with(|first: char| first.is_ascii_digit()) { State::Passed } else { State::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_followed() {
        let names: BTreeSet<String> = ["[a] x".to_owned(), "[a] x y".to_owned()].into();
        let mut watch = Watch::new(&names, 3);
        let start = Instant::now();
        let changes: Vec<String> = [
            "noise",
            "[a] x y [Conformance]",
            "k8s.io/kubernetes/test/e2e/a.go:7",
            "[a] x",
            "• [FAILED] [61.2 seconds]",
            "[a] x y [Conformance]",
            "[a] x",
            "• [0.1 seconds]",
        ]
        .iter()
        .filter_map(|line| watch.line(line, start))
        .map(|change| change.to_string())
        .collect();
        assert_eq!(changes, ["2/3  [a] x y", "       failed (0 s)", "3/3  [a] x", "       passed (0 s)"]);
    }

    #[test]
    fn a_spec_has_a_deadline() {
        let names: BTreeSet<String> = ["[a] x".to_owned()].into();
        let mut watch = Watch::new(&names, 1);
        let start = Instant::now();
        watch.line("[a] x", start);
        assert_eq!(watch.late(Duration::from_secs(9), start + Duration::from_secs(9)), None);
        assert_eq!(watch.late(Duration::from_secs(9), start + Duration::from_secs(10)), Some("[a] x"));
    }
}
