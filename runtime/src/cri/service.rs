//! What all calls of RuntimeService share.
use std::pin::Pin;
use std::sync::Arc;

use streams::Server;
use tokio_stream::Stream;
use tonic::{Response, Status};

use super::errors::{Coded, status};
use containers::Phase;
use containers::{Container, Runtime, Sandbox};

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
        let container = self.runtime.container(id).map_err(status)?;
        match container.phase() {
            Phase::Running => Ok(container),
            other => Err(Status::failed_precondition(format!("container {id} is not running but {other:?}"))),
        }
    }

    /// The sandbox, if it is ready.
    pub fn ready(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        let sandbox = self.runtime.sandbox(id).map_err(status)?;
        if sandbox.record().ready {
            Ok(sandbox)
        } else {
            Err(Status::failed_precondition(format!("pod sandbox {id} is not ready")))
        }
    }
}

/// Runs a change to its end although the client may go away in the middle.
pub async fn whole<T: Send + 'static, E: Coded + Send>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(status),
        Err(error) => Err(Status::internal(format!("a task of the runtime failed: {error}"))),
    }
}
