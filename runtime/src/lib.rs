//! The CRI runtime as a library, so that tests can reach its parts.

pub mod image;
pub mod network;
pub mod streaming;
