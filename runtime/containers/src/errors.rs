//! Why the verbs failed: an enum per verb, which names the step with its object and keeps the kernel's word as its cause.
mod container;
mod exec;
mod sandbox;
mod step;

pub use container::{CreateError, ImageError, MountError, RemoveError, StartError, StopError, UpdateError};
pub use exec::ExecError;
pub use sandbox::SandboxError;
pub(crate) use step::Step;
pub use step::StepError;

/// What is asked for by an id that nothing has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuch {
    #[error("container {0:?} does not exist")]
    Container(String),
    #[error("pod sandbox {0:?} does not exist")]
    Sandbox(String),
}
