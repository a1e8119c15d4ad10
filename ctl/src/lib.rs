//! `pintle`, the command line: makes machine config and talks to the machine API of nodes.
//!
//! The modules are ordinary functions over data; `main.rs` parses arguments, calls them and prints.

pub mod client;
pub mod generate;
pub mod reference;
pub mod table;
