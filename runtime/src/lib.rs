//! The container runtime: a CRI v1 server without shims and without pause processes.
//!
//! `pintle-runtime` (`serve.rs`) serves CRI on a unix socket; `cri` takes requests apart, asks and puts answers together. What runs is made in
//! the crate `containers`, which stands on `images`, `pod-network` and `streams`; none of the four knows gRPC.

mod cri;
mod import;
mod metrics;
mod peers;
mod serve;
mod settings;

pub use serve::run;
