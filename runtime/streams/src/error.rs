//! Why no URL was given out for a stream.
use std::io;

/// Why a stream was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The request says nothing of what it is for, or contradicts itself.
    #[error("{0}")]
    Invalid(&'static str),
    /// So many streams were registered in the last minute and not opened.
    #[error("{0} streams were asked for in the last minute and not opened; try again later")]
    TooManyWait(usize),
    #[error("stream token: read /dev/urandom: {0}")]
    NoRandomBytes(#[source] io::Error),
}
