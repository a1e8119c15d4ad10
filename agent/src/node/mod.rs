//! This machine as a Node: registration, status, lease, pod range.
pub mod capacity;
pub mod lease;
pub mod object;
mod pod_range;
pub mod run;
