//! Why a pod sandbox could not be made, stopped or removed.
use super::{NoSuch, RemoveError, StepError, StopError};

/// Why a verb of a sandbox failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    NoSuch(#[from] NoSuch),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    #[error("the pause process of the pod sandbox {0} has ended")]
    PauseEnded(String),
    /// A container of it could not be ended.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A container of it could not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    #[error(transparent)]
    Failed(#[from] StepError),
}
