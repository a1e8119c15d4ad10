//! What became of the cases.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cases::Outcome;

/// Counts for the closing line.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
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
                println!("FAILED   {name} ({seconds} s): {fault:#}");
                return false;
            }
        }
        true
    }
}
