//! What is checked without running any of the product.
mod deny;
mod walls;

use anyhow::Result;

/// A name, and what fails with everything that is wrong.
type Check = (&'static str, fn() -> Result<()>);

/// Each check, in the order in which they run.
///
/// Lints are not among them: who runs them compiles the tests with them.
pub const CHECKS: &[Check] = &[
    ("import directions", crate::imports::check),
    ("walls", walls::check),
    ("licences, banned crates and sources", deny::check),
];
