use std::collections::BTreeMap;

use crate::stats::NodeStats;

/// What thresholds are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    ContainerfsAvailable,
    ContainerfsInodesFree,
    PidAvailable,
}

impl Signal {
    /// The signal of a name in the machine config.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::MemoryAvailable,
            "nodefs.available" => Self::NodefsAvailable,
            "nodefs.inodesFree" => Self::NodefsInodesFree,
            "imagefs.available" => Self::ImagefsAvailable,
            "imagefs.inodesFree" => Self::ImagefsInodesFree,
            "containerfs.available" => Self::ContainerfsAvailable,
            "containerfs.inodesFree" => Self::ContainerfsInodesFree,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }

    /// Whether it is about a disk.
    #[must_use]
    pub fn is_disk(self) -> bool {
        !matches!(self, Self::MemoryAvailable | Self::PidAvailable)
    }

    /// The resource as users read it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable | Self::ContainerfsAvailable => {
                "ephemeral-storage"
            }
            Self::NodefsInodesFree | Self::ImagefsInodesFree | Self::ContainerfsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
}

/// How much is left of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    pub left: u64,
    pub capacity: u64,
}

/// What is left. Page cache that the kernel would give back counts as left: MemAvailable, not free memory.
#[must_use]
pub fn observe(stats: &NodeStats) -> BTreeMap<Signal, Available> {
    let mut seen = BTreeMap::new();
    if let Some(left) = stats.node.memory_available {
        seen.insert(Signal::MemoryAvailable, Available { left, capacity: stats.memory_capacity });
    }
    if let Some(disk) = &stats.disk {
        // Volumes, images and writable layers share one file system.
        let bytes = Available { left: disk.available, capacity: disk.capacity };
        let inodes = Available { left: disk.inodes_free, capacity: disk.inodes };
        seen.insert(Signal::NodefsAvailable, bytes);
        seen.insert(Signal::ImagefsAvailable, bytes);
        seen.insert(Signal::ContainerfsAvailable, bytes);
        // A file system that makes inodes as it needs them reports none.
        if disk.inodes > 0 {
            seen.insert(Signal::NodefsInodesFree, inodes);
            seen.insert(Signal::ImagefsInodesFree, inodes);
            seen.insert(Signal::ContainerfsInodesFree, inodes);
        }
    }
    if stats.max_pid > 0 {
        let left = stats.max_pid.saturating_sub(stats.processes);
        seen.insert(Signal::PidAvailable, Available { left, capacity: stats.max_pid });
    }
    seen
}
