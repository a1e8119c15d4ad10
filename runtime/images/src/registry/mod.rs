//! Pulls from registries by the OCI distribution protocol.
use std::io;
use std::time::Duration;

mod auth;
mod blob;
mod endpoint;
mod http;
mod manifest;
mod pull;
mod reach;
mod retry;
mod target;

/// What fails when a server cannot be reached.
const CONNECTING: &str = "connecting";

/// For the fuzz targets: what takes registries' answers apart.
#[cfg(feature = "fuzzing")]
pub mod answers {
    pub use super::auth::{Challenge, error_message, parse_token};
    pub use super::reach::refused_name;
    pub use super::target::Target;
}

pub use endpoint::Registries;
pub use manifest::{MAX_CONFIG, Manifest, check_config, choose, digest_of};

use super::{StoreError, layer::LayerError};
use node_kit::errors::Chain;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Name(#[from] super::reference::BadReference),
    #[error(
        "{0} names no registry, and none is configured for short names; write registry/{0} or set shortNames on a Registry document"
    )]
    Unqualified(String),
    #[error("{0}: not found")]
    NotFound(String),
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    #[error(
        "{server}: it is {what}, which images are pulled from only where a Registry document names {server}"
    )]
    Refused { server: String, what: String },
    #[error("{url}: {action}: {}", Chain(.source))]
    Transport { url: String, action: &'static str, source: io::Error },
    #[error("{url}: unexpected status {status}{}", said(.message))]
    Status { url: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("{0}")]
    Malformed(String),
    #[error("no image for platform {0} in the index")]
    Platform(String),
    #[error("{what}: content is {actual} where {expected} was asked for")]
    Digest { what: String, expected: String, actual: String },
    #[error("layer {digest}: {}", Chain(.source))]
    Layer { digest: String, source: LayerError },
    #[error("deadline exceeded while pulling")]
    Deadline,
    #[error("{}", Chain(.0))]
    Store(#[from] StoreError),
    #[error("the unpacking thread panicked")]
    Panicked,
}

impl PullError {
    /// Whether another endpoint may do better.
    fn try_next(&self) -> bool {
        matches!(
            self,
            Self::NotFound(_)
                | Self::Denied(_)
                | Self::Refused { .. }
                | Self::Transport { .. }
                | Self::Status { .. }
                | Self::Malformed(_)
                | Self::Digest { .. }
        )
    }

    /// Whether a later try may go on with what this one stored: the registry could not be heard to the end,
    /// or nobody waited for it.
    fn later(&self) -> bool {
        matches!(self, Self::Transport { .. } | Self::Status { .. } | Self::Denied(_) | Self::NotFound(_))
    }
}

/// What a registry says of a failure, behind what we say of it.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

#[cfg(test)]
mod tests;
