//! `pintle-launch` and how the runtime speaks to it.
//!
//! libcontainer forks, changes its caller and deadlocks when other threads hold locks, so it is called only in a fresh single-threaded process
//! that does one thing and ends. The process gets a socket as its stdin, reads one [`Request`] with the container's stdio as descriptors, and answers
//! with one [`Reply`]. The container's init keeps the socket until it has become the user's program: it closes without a word when that
//! worked, and carries a second reply when it did not. So does a further process in a container, which is made without libcontainer.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod attach;
mod child;
mod client;
mod enter;
mod exec;
mod executor;
mod faults;
pub mod mount_ns;
mod namespaces;
pub mod pause;
pub mod premount;
mod program;
mod strays;
mod wire;
mod worker;

pub use client::{Launched, Starting, launch};
pub use namespaces::MappedNamespaces;
pub use program::{program, seal};
pub use strays::end_former;
pub use worker::main;

/// The largest request or reply, in bytes.
pub const MAX_FRAME: usize = 256 << 10;

/// What one launch does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Makes a container's init, which waits for the word on its notify socket. Descriptors: those of the [`mount_ns::MountNs`], then stdin, stdout and stderr,
    /// unless it has a terminal.
    Create(Container),
    /// Makes a further process in a container, as the file `process` (OCI's `process`) describes it; it runs its program once the reply is sent. Descriptors:
    /// stdin, stdout and stderr, unless it has a terminal.
    Exec { cgroup: PathBuf, first: First, process: PathBuf, seccomp: Option<PathBuf>, enter: Option<Enter> },
    /// Starts a pause process in a new pid namespace, and in those that are pinned in `pins`, with the folder
    /// `root` as the place of an empty root; it ends unless it is told to stay. No descriptors.
    Pause { root: PathBuf, pins: PathBuf },
}

/// A request with what the launch has to know about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Order<R> {
    request: R,
    /// Whether it is in the container's cgroup already.
    joined: bool,
}

/// The container a request speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub id: String,
    /// libcontainer's state folder; the container's own lies below it under its id.
    pub root: PathBuf,
    pub bundle: PathBuf,
    /// The folder of its cgroup.
    pub cgroup: PathBuf,
    /// The compiled system call filter.
    pub seccomp: Option<PathBuf>,
    /// Where to receive the terminal, when it has one: a socket path below 108 bytes.
    pub console: Option<PathBuf>,
}

/// A container's first process: its pid, and its start time in clock ticks since boot.
pub type First = (i32, u64);

/// The last step of a further process into a pod's user namespace. Until then it is root on the host with every capability, and this is what it becomes before it
/// runs its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enter {
    /// Where the user namespace is pinned.
    pub namespace: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// OCI's `capabilities`.
    pub capabilities: serde_json::Value,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Descriptors: the pidfd and, with a terminal, its master side.
    Started {
        pid: i32,
        start_time: u64,
    },
    Failed(Failure),
}

/// Why a program could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub message: String,
    /// What a shell would return: 127 not found, 126 not executable; 128 anything else.
    pub exit_code: i32,
}

impl Failure {
    /// A failure that is not the program's.
    pub fn other(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code: 128 }
    }
}
