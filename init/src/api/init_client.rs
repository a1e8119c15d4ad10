//! Calls on the machine socket.
use std::os::fd::OwnedFd;
use std::time::Duration;

use machine::paths::MACHINE_SOCKET;
use machine::socket::{Error, MAX_FRAME, Reply, Request, error, reply, request};
use prost::Message;
use sys::framed::FramedSocket;
use tokio::time::timeout;
use tonic::Status;

/// How long one answer may take. Applying a config includes its checks and writing it to disk.
const DEADLINE: Duration = Duration::from_secs(60);

/// An answer with the descriptors that came with it.
pub type Answer = (reply::Result, Vec<OwnedFd>);

/// One call on a connection of its own.
///
/// # Errors
/// init's own error, or UNAVAILABLE when it does not answer.
pub async fn call(actor: &str, call: request::Call) -> Result<Answer, Status> {
    let mut stream = Stream::open(actor, call).await?;
    match timeout(DEADLINE, stream.next()).await {
        Ok(answer) => {
            answer?.ok_or_else(|| Status::unavailable("init closed the connection without an answer"))
        }
        Err(_) => Err(Status::deadline_exceeded("init did not answer within 60 s")),
    }
}

/// One call and the one descriptor it is answered with.
///
/// # Errors
/// As [`call`]; INTERNAL when no descriptor came.
pub async fn descriptor(actor: &str, request: request::Call) -> Result<OwnedFd, Status> {
    let (_, descriptors) = call(actor, request).await?;
    descriptors.into_iter().next().ok_or_else(|| Status::internal("init answered without a descriptor"))
}

/// A call that is answered more than once.
#[derive(Debug)]
pub struct Stream {
    socket: FramedSocket,
    ended: bool,
}

impl Stream {
    /// Sends the call.
    ///
    /// # Errors
    /// UNAVAILABLE when init is not to be reached.
    pub async fn open(actor: &str, call: request::Call) -> Result<Self, Status> {
        let lost = |error| Status::unavailable(format!("reach init at {MACHINE_SOCKET}: {error}"));
        let socket = FramedSocket::connect(MACHINE_SOCKET, MAX_FRAME).map_err(lost)?;
        let request = Request { id: 1, actor: actor.into(), call: Some(call) };
        socket.send(&request.encode_to_vec(), &[]).await.map_err(lost)?;
        Ok(Self { socket, ended: false })
    }

    /// The next answer; `None` at the end.
    ///
    /// # Errors
    /// init's own error, or UNAVAILABLE.
    pub async fn next(&mut self) -> Result<Option<Answer>, Status> {
        if self.ended {
            return Ok(None);
        }
        let lost = |error| Status::unavailable(format!("read from init: {error}"));
        let Some((frame, descriptors)) = self.socket.recv().await.map_err(lost)? else {
            self.ended = true;
            return Ok(None);
        };
        let reply = Reply::decode(&*frame)
            .map_err(|error| Status::internal(format!("read init's answer: {error}")))?;
        self.ended = !reply.more;
        match reply.result {
            Some(reply::Result::Error(error)) => Err(status(&error)),
            Some(result) => Ok(Some((result, descriptors))),
            None => Ok(None),
        }
    }
}

fn status(error: &Error) -> Status {
    let message = error.message.clone();
    match error.code() {
        error::Code::Internal => Status::internal(message),
        error::Code::Invalid => Status::invalid_argument(message),
        error::Code::NotFound => Status::not_found(message),
        error::Code::Denied => Status::permission_denied(message),
        error::Code::Unavailable => Status::unavailable(message),
        error::Code::Timeout => Status::deadline_exceeded(message),
    }
}
