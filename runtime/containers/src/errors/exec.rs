//! Why a command could not be run in a container.
use std::time::Duration;

use crate::launch::Failure;
use crate::state::Phase;

use super::{NoSuch, StepError};

/// Why an exec failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    NoSuch(#[from] NoSuch),
    #[error("container {id} is not running but {phase:?}")]
    NotRunning { id: String, phase: Phase },
    #[error("no command to execute")]
    NoCommand,
    #[error("failed to exec in container {id:?}")]
    Refused { id: String, source: Failure },
    #[error("no standard streams arrived for an exec in container {0:?}")]
    NoStreams(String),
    /// The command has been killed.
    #[error("command {command:?} timed out after {timeout:?}")]
    TimedOut { command: Vec<String>, timeout: Duration },
    #[error(transparent)]
    Failed(#[from] StepError),
}
