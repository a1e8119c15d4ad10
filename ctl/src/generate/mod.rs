//! `pintle gen`: secrets, machine config and client config of a new cluster.

mod client;
mod config;
mod merge;
mod secrets;

pub use client::ClientConfig;
pub use config::{Generated, Options, generate};
pub use merge::{Patch, parse_documents};
pub use secrets::{ADMIN_ROLE, READER_ROLE, Secrets, issue_client};
