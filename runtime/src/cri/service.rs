//! What all calls of RuntimeService share.
use std::pin::Pin;
use std::sync::Arc;

use streams::{RegisterError, Server};
use tokio_stream::Stream;
use tonic::{Response, Status};

use crate::runtime::{Container, Runtime, Sandbox, internal};
use crate::state::Phase;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    pub runtime: Arc<Runtime>,
    pub streams: Server,
}

/// What a call answers.
pub type Answer<T> = Result<Response<T>, Status>;
/// What a call answers bit by bit.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An answer without metadata.
pub fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

impl Service {
    /// The container, if it runs.
    pub fn running(&self, id: &str) -> Result<Arc<Container>, Status> {
        let container = self.runtime.container(id)?;
        match container.phase() {
            Phase::Running => Ok(container),
            other => Err(Status::failed_precondition(format!("container {id} is not running but {other:?}"))),
        }
    }

    /// The sandbox, if it is ready.
    pub fn ready(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        let sandbox = self.runtime.sandbox(id)?;
        if sandbox.record().ready {
            Ok(sandbox)
        } else {
            Err(Status::failed_precondition(format!("pod sandbox {id} is not ready")))
        }
    }
}

/// Runs a change to its end although the client may go away in the middle.
pub async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(internal("a task of the runtime failed", &error)),
    }
}

/// Why a client gets no URL of a stream.
pub fn not_registered(error: RegisterError) -> Status {
    match error {
        RegisterError::Invalid(_) => Status::invalid_argument(error.to_string()),
        RegisterError::TooManyWait(_) => Status::resource_exhausted(error.to_string()),
        RegisterError::NoRandomBytes(_) => Status::internal(error.to_string()),
    }
}
