//! Disks: what is there, which one holds the machine's state, making it ready, and mounting it.
//!
//! A disk that holds anything of somebody else's is never written to unless the machine config says `wipe`.
mod choose;
mod id;
mod partition;
mod prepare;
mod probe;
mod scan;

pub use choose::{Choice, choose_state, choose_volume};
pub use prepare::{append_partition, mount_ext4, prepare_disk, prepare_partition};
pub use probe::Content;
pub use scan::{Device, scan};
