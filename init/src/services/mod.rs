//! The services that PID 1 supervises: what they are, when they start, how they are kept running, where their logs go.
mod definition;
mod heartbeat;
mod logs;
mod state;
mod supervisor;

pub use definition::{NAMES, SERVICES, cgroups};
pub use logs::{LogSink, log_path};
pub use supervisor::{Supervisor, SupervisorHandle, end_leftovers};

/// Where services find programs.
pub const PATH: &str = "/usr/lib/pintle:/usr/sbin:/usr/bin";
