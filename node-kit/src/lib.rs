//! What every service of the node stands on: files that are replaced whole, tasks that are watched over, accepting that never ends, folders that are
//! watched, the machine socket's client, clocks, and errors with their causes.
//!
//! It knows nothing of what a service does, and imports `machine` and `sys` alone.

pub mod accept;
pub mod clock;
pub mod errors;
pub mod files;
pub mod folder;
pub mod heartbeat;
pub mod hooks;
mod lock;
pub mod machine_socket;
pub mod strangers;
pub mod tasks;

pub use lock::lock;
