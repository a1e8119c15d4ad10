//! Why a layer is not unpacked, and where.
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("entry {path:?}: {problem}")]
    Refused { path: String, problem: &'static str },
    #[error("unpacking {path:?}")]
    Io { path: String, source: io::Error },
    #[error(
        "layer exceeds {what} of {limit}; use a smaller image, or raise the bound in the Runtime document"
    )]
    TooLarge { what: &'static str, limit: u64 },
    #[error("less than {0} bytes would stay free on the state volume; free space or remove images")]
    NoSpace(u64),
    #[error("reading the layer")]
    Read(#[source] io::Error),
}

pub(super) fn at(path: &Path, error: Errno) -> ApplyError {
    ApplyError::Io { path: path.display().to_string(), source: error.into() }
}

pub(super) fn refused(path: &Path, problem: &'static str) -> ApplyError {
    ApplyError::Refused { path: path.display().to_string(), problem }
}

pub(super) fn io_at(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::Io { path: path.display().to_string(), source }
}
