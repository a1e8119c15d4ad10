//! Taking the node back from pods that use up memory, disk or process ids (pkg/kubelet/eviction).
//!
//! `signals` reads what is left, `decide` says which thresholds are met, `rank` which pod has to go; [`run`] does so every ten seconds
//! and at once when the kernel reports memory pressure.
mod decide;
mod local;
mod rank;
mod run;
mod signals;

pub use decide::{Decider, Pressures, Threshold, ThresholdError, thresholds};
pub use rank::{Candidate, rank};
pub use run::{Eviction, Measure, Reclaim, run};
pub use signals::{Available, Signal, observe};

#[cfg(test)]
mod tests;
