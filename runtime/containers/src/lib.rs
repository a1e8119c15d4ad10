//! Pod sandboxes and containers, without shims and without pause processes: what makes, watches, enters and removes them.
//!
//! [`Runtime`] is the centre, with a file per verb's object: `pod`, `container`, `exec`, `restore`, `stats`. Every verb has an enum of its errors.
//! `spec` and `seccomp` decide what a container is, [`launch`] makes it: every call into libcontainer happens in `pintle-launch`, a fresh
//! single-threaded process that ends as soon as the container's pid is known. `io` and `logs` carry its output, `exits` tells how it ended.
//! PID 1 adopts and reaps the containers and keeps their pipes and exit codes, so the process with this crate in it can be killed at any moment.
//!
//! No gRPC: of CRI it knows the messages that say what a pod and a container are to be.

mod apparmor;
mod cgroup;
mod container;
mod cpu;
mod errors;
mod event;
mod exec;
mod exec_streams;
mod exits;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ground;
mod io;
pub mod launch;
mod logs;
mod namespaces;
mod pipes;
mod pod;
mod port_forward;
mod record;
mod restore;
mod runtime;
mod seccomp;
mod spec;
mod state;
mod stats;
mod transfer;
mod user_namespace;

pub use errors::{
    CreateError, ExecError, ImageError, MountError, NoSuch, RemoveError, SandboxError, StartError, StepError,
    StopError, UpdateError,
};
pub use event::Event;
pub use exec_streams::Backend;
pub use ground::{Ground, prepare};
pub use pod::HANDLER;
pub use runtime::{Container, Runtime, Sandbox};
pub use state::{ContainerRecord, Phase, SandboxRecord, now, options};
