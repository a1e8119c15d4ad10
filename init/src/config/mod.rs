//! The machine config: where it comes from, keeping it, and changing it.
mod apply;
mod persist;
mod redact;
mod smbios;
mod source;

pub use apply::apply;
pub use persist::{Attempt, activate, keep, keep_first, write_atomically};
pub use redact::redact;
pub use source::{
    Found, fetch, from_firmware, from_image, from_previous, from_smbios, from_state, from_volumes, url,
};

use std::sync::Arc;

use machine::config::{Fault, MachineConfig};

use crate::node::ActiveConfig;

/// The longest config, in bytes.
pub const LONGEST: u64 = machine::socket::MAX_CONFIG as u64;

/// Parses what a source gave.
///
/// # Errors
/// Every fault.
pub fn parse(found: &Found) -> Result<Arc<ActiveConfig>, Vec<Fault>> {
    let config: MachineConfig = machine::config::parse(&found.source, &found.yaml)?;
    Ok(Arc::new(ActiveConfig { yaml: found.yaml.clone(), source: found.source.clone(), config }))
}
