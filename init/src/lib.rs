//! PID 1 of a Pintle node. Its two helpers that face the network are crates of their own, `net` and `api`: what they tell it are messages.
//!
//! `pintle-init` runs twice: [`stage1`] in the initramfs finds and verifies the root; [`stage2`] is the node's PID 1. Of what came over a
//! network it parses machine configs and nothing else; it never exits and never waits without a bound.

mod bounded;
mod children;
mod cmdline;
mod config;
pub mod console;
mod disk;
pub mod events;
mod fd_store;
mod leave;
mod ledger;
pub mod login1;
mod modules;
pub mod network;
pub mod node;
mod places;
mod processes;
mod reader;
mod services;
mod shutdown;
mod socket;
mod stage1;
mod stage2;
pub mod task;
mod tmpfs;

pub use modules::{Modules, requested as requested_module};
pub use stage1::run as run_stage1;
pub use stage2::run as run_stage2;
