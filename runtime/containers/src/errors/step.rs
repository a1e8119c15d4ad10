//! A step of a verb that failed: what was tried, with what, and why it could not be done.
use std::error::Error;
use std::fmt::Display;

/// A step that failed. It says the operation and its object; the cause, with the kernel's words, is its source.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StepError {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}

/// Says which step a failure belongs to.
pub(crate) trait Step<T> {
    /// The failure as one of `what`, which is only written out then.
    fn step(self, what: impl Display) -> Result<T, StepError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Step<T> for Result<T, E> {
    fn step(self, what: impl Display) -> Result<T, StepError> {
        self.map_err(|error| StepError { what: what.to_string(), source: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use node_kit::errors::Chain;

    use super::*;
    use crate::errors::{CreateError, MountError};

    #[test]
    fn a_verb_that_failed_names_its_step_the_path_and_the_kernels_word() {
        let failed = std::fs::read("/proc/none").step(format_args!("read {}", "/proc/none")).unwrap_err();
        let error = CreateError::from(MountError::from(failed));
        assert_eq!(Chain(&error).to_string(), "read /proc/none: No such file or directory (os error 2)");
    }
}
