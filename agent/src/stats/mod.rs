//! What the node and its pods use, for `/stats/summary` and the metrics endpoints.
//!
//! `read` measures (CRI's sandbox statistics, `/proc`, the root cgroup, statfs); `summary` and `metrics` are functions over it.
mod metrics;
mod node;
mod rates;
mod read;
mod summary;

pub use metrics::{cadvisor_metrics, node_agent_metrics, probe_metrics, resource_metrics};
pub use node::{DiskUse, NetworkUse, Use, parse_meminfo};
pub use rates::Rates;
pub use read::{read, read_node};
pub use summary::summary;

use jiff::Timestamp;

/// Measurements of a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStats {
    pub time: Timestamp,
    pub boot_time: Timestamp,
    pub node: Use,
    pub network: Vec<NetworkUse>,
    /// The file system of `/var`, where images and volumes lie too.
    pub disk: Option<DiskUse>,
    pub cpu_cores: u32,
    pub memory_capacity: u64,
    pub max_pid: u64,
    pub processes: u64,
    pub pods: Vec<PodStats>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// From the root of cgroup2.
    pub cgroup: String,
    pub started: Timestamp,
    pub usage: Use,
    pub network: Vec<NetworkUse>,
    pub processes: Option<u64>,
    pub containers: Vec<ContainerStats>,
}

/// One container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    pub name: String,
    pub id: String,
    pub image: String,
    pub started: Timestamp,
    pub usage: Use,
    /// Bytes and inodes of the writable layer.
    pub writable: Option<(u64, u64)>,
}

#[cfg(test)]
mod tests;
