//! What became of the cases.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow};

/// How a case ended without a fault.
#[derive(Debug)]
pub enum Outcome {
    Passed,
    /// With the reason; a case that cannot run here says so loudly.
    Skipped(String),
}

/// Counts for the closing line.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Cases that were run again because of a fault that is the emulator's.
    pub repeated: usize,
    /// Names of what failed.
    failures: Vec<String>,
}

/// A result and the seconds it took.
pub type Attempt = (Result<Outcome>, u64);

/// Runs a case; a panic is a failure of that case alone.
pub fn attempt(case: impl FnOnce() -> Result<Outcome>) -> Attempt {
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|_| Err(anyhow!("the case panicked")));
    (result, start.elapsed().as_secs())
}

impl Report {
    /// The ring's closing line, and before it the names of what failed.
    pub fn close(&self, ring: &str) -> String {
        let Self { passed, failed, skipped, repeated, failures } = self;
        let names: String = failures.iter().map(|name| format!("FAILED   {name}\n")).collect();
        format!("{names}{ring}: {passed} passed, {failed} failed, {skipped} skipped, {repeated} repeated")
    }

    /// Prints and counts one result; true unless it failed.
    pub fn add(&mut self, name: &str, (result, seconds): Attempt) -> bool {
        match result {
            Ok(Outcome::Passed) => {
                self.passed += 1;
                println!("passed   {name} ({seconds} s)");
            }
            Ok(Outcome::Skipped(reason)) => {
                self.skipped += 1;
                println!("SKIPPED  {name}: {reason}");
            }
            Err(fault) => {
                self.failed += 1;
                self.failures.push(name.to_owned());
                println!("FAILED   {name} ({seconds} s): {fault:#}");
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_ends_with_the_names_of_what_failed() {
        let mut report = Report { repeated: 1, ..Report::default() };
        assert!(report.add("good", (Ok(Outcome::Passed), 1)));
        assert!(!report.add("bad", (Err(anyhow!("reason")), 1)));
        assert_eq!(
            report.close("machine"),
            "FAILED   bad\nmachine: 1 passed, 1 failed, 0 skipped, 1 repeated"
        );
    }
}
