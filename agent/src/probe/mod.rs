//! Startup, liveness and readiness probes.
//!
//! One task per running container that has probes: it runs the startup probe, then liveness and readiness side by side, each with one
//! timer. [`Manager`] starts and ends them and answers what is known of a container; changes go out on a channel.
//!
//! A restart of the agent flips nothing: a container that was ready is watched with [`Initial::ready`], and stays so until its probe
//! has failed as often as its threshold says.
mod address;
mod grpc;
pub(crate) mod http;
mod manager;
mod names;
mod once;
mod outcome;
mod tls;
mod tracker;

pub use manager::{Changed, Health, Initial, Manager, ProbeCount, Report, Target};
pub use names::Names;
pub use once::{Exec, ExecOutput};
pub use outcome::Outcome;
pub use tracker::{Kind, Thresholds, Tracker};

#[cfg(test)]
mod tests;
