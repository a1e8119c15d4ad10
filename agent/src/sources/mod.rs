//! Where pods come from.
pub mod api;
pub mod file;
pub mod mirror;
