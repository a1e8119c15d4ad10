//! Why a verb of a container failed: an enum per verb.
use crate::launch::Failure;
use crate::state::Phase;

use super::{NoSuch, StepError};

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {0:?} is not present; pull it first")]
    NotPresent(String),
    #[error(transparent)]
    Failed(#[from] StepError),
}

/// Why a requested mount could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Failed(#[from] StepError),
}

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    NoSuch(#[from] NoSuch),
    #[error("the pod sandbox {0} is not ready")]
    SandboxNotReady(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Failed(#[from] StepError),
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    NoSuch(#[from] NoSuch),
    #[error("container {id} is not in the created state but {phase:?}")]
    NotCreated { id: String, phase: Phase },
    #[error("the pod sandbox {0} is not ready")]
    SandboxNotReady(String),
    /// Nothing has been tried yet.
    #[error(transparent)]
    Failed(#[from] StepError),
    /// The container has ended with it.
    #[error("failed to start container {id:?}")]
    NeverRan { id: String, source: Failure },
}

/// Why a container could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("container {0} is still being started")]
    Starting(String),
    #[error("container {id} was killed but has not ended within {} s", .within.as_secs())]
    LivesOn { id: String, within: std::time::Duration },
    #[error(transparent)]
    Failed(#[from] StepError),
}

/// Why a container could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error("remove container {id}")]
    Failed { id: String, source: StepError },
}

/// Why a container's limits could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("container {0} has ended")]
    Ended(String),
    #[error(transparent)]
    Failed(#[from] StepError),
}
