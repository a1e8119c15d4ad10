//! The container runtime: a CRI v1 server without shims and without pause processes.
//!
//! `pintle-runtime` (`serve.rs`) serves CRI on a unix socket; every call into libcontainer happens in `pintle-launch`, a fresh
//! single-threaded process that ends as soon as the container's pid is known. PID 1 adopts and reaps the containers and keeps their
//! pipes and exit codes, so this process can be killed at any moment.
//!
//! [`cri`] takes requests apart; [`runtime`] is the centre, with a file per verb's object: [`pod`], [`container`], [`exec`], [`restore`], [`stats`].
//! [`spec`] and [`seccomp`] decide what a container is, [`launch`] makes it, [`io`] and [`logs`] carry its output, [`exits`] tells how it ended.
//! The crates `images`, `pod-network` and `streams` know nothing of containers, nor of gRPC.

pub mod apparmor;
pub mod backend;
pub mod cgroup;
pub mod container;
pub mod cri;
pub mod exec;
pub mod exits;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod import;
pub mod io;
pub mod launch;
pub mod logs;
pub mod metrics;
pub mod namespaces;
mod peers;
pub mod pod;
mod port_forward;
mod record;
pub mod restore;
pub mod runtime;
pub mod seccomp;
mod serve;
pub mod settings;
pub mod spec;
pub mod state;
pub mod stats;
mod step;
pub mod transfer;
pub mod user_namespace;

pub use serve::run;
