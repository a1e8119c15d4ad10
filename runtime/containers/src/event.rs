//! What happens to containers, for whoever listens.
use machine::cri;

use crate::state::{ContainerRecord, SandboxRecord};

/// What happened to a container, and how all of its pod was right after it.
#[derive(Debug)]
pub struct Event {
    pub container_id: String,
    pub kind: cri::ContainerEventType,
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// None of a sandbox that has gone meanwhile.
    pub sandbox: Option<SandboxRecord>,
    /// All of the sandbox.
    pub containers: Vec<ContainerRecord>,
}
