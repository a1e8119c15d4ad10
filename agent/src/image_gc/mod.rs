//! Removing images that nothing uses, when their file system fills up or they have been unused for long.
mod plan;
mod run;

pub use plan::{Image, Policy, Records, to_free};
pub use run::{Collector, run};
