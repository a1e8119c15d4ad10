//! The machine config: where it comes from, keeping it, and changing it.
mod apply;
mod persist;
mod smbios;
mod source;

pub use apply::apply;
pub use persist::{Attempt, activate, keep, keep_first, write_atomically};
pub use source::{
    fetch, from_firmware, from_image, from_previous, from_smbios, from_state, from_volumes, url,
};

/// The longest config, in bytes.
pub const LONGEST: u64 = machine::socket::MAX_CONFIG as u64;
