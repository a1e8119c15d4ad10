//! Errors of the runtime's verbs as CRI's status: a code per variant, and the error with its causes as the message.
use std::error::Error;

use containers::{
    CreateError, ExecError, ImageError, MountError, NoSuch, RemoveError, SandboxError, StartError, StepError,
    StopError, UpdateError,
};
use node_kit::errors::Chain;
use streams::RegisterError;
use tonic::{Code, Status};

/// An error that CRI has a code for.
pub trait Coded: Error + 'static {
    /// What a client may tell it from.
    fn code(&self) -> Code;
}

/// The status that a client gets.
pub fn status<E: Coded>(error: E) -> Status {
    Status::new(error.code(), Chain(&error).to_string())
}

impl Coded for StepError {
    fn code(&self) -> Code {
        Code::Internal
    }
}

impl Coded for NoSuch {
    fn code(&self) -> Code {
        Code::NotFound
    }
}

impl Coded for SandboxError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuch(error) => error.code(),
            Self::Invalid(_) => Code::InvalidArgument,
            Self::PauseEnded(_) => Code::Internal,
            Self::Stop(error) => error.code(),
            Self::Remove(error) => error.code(),
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for ImageError {
    fn code(&self) -> Code {
        match self {
            Self::NotPresent(_) => Code::NotFound,
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for MountError {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Image(error) => error.code(),
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for CreateError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuch(error) => error.code(),
            Self::SandboxNotReady(_) => Code::FailedPrecondition,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Image(error) => error.code(),
            Self::Mount(error) => error.code(),
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for StartError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuch(error) => error.code(),
            Self::NotCreated { .. } | Self::SandboxNotReady(_) => Code::FailedPrecondition,
            Self::Failed(error) => error.code(),
            // As other runtimes answer: it is the program's fault, most of the time.
            Self::NeverRan { .. } => Code::Unknown,
        }
    }
}

impl Coded for StopError {
    fn code(&self) -> Code {
        match self {
            Self::Starting(_) | Self::LivesOn { .. } => Code::DeadlineExceeded,
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for RemoveError {
    fn code(&self) -> Code {
        match self {
            Self::Stop(error) => error.code(),
            Self::Failed { source, .. } => source.code(),
        }
    }
}

impl Coded for UpdateError {
    fn code(&self) -> Code {
        match self {
            Self::Ended(_) => Code::FailedPrecondition,
            Self::Failed(error) => error.code(),
        }
    }
}

impl Coded for ExecError {
    fn code(&self) -> Code {
        match self {
            Self::NoSuch(error) => error.code(),
            Self::NotRunning { .. } => Code::FailedPrecondition,
            Self::NoCommand => Code::InvalidArgument,
            Self::Refused { .. } => Code::Unknown,
            Self::NoStreams(_) => Code::Internal,
            Self::TimedOut { .. } => Code::DeadlineExceeded,
            Self::Failed(error) => error.code(),
        }
    }
}

/// Why a client gets no URL of a stream.
impl Coded for RegisterError {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::TooManyWait(_) => Code::ResourceExhausted,
            Self::NoRandomBytes(_) => Code::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containers::launch::Failure;

    #[test]
    fn a_start_that_failed_is_told_with_its_cause() {
        let source = Failure { message: "exec /bin/x: no such file or directory".into(), exit_code: 127 };
        let told = status(StartError::NeverRan { id: "c1".into(), source });
        assert_eq!(told.code(), Code::Unknown);
        assert_eq!(
            told.message(),
            r#"failed to start container "c1": exec /bin/x: no such file or directory"#
        );
    }
}
