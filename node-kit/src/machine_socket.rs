//! What a service asks of PID 1 (`machine/proto/socket.proto`).
mod client;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use machine::paths::MACHINE_SOCKET;
use machine::socket::{MAX_FRAME, Reply, Request, error, reply, request};
use prost::Message as _;
use sys::framed::FramedSocket;

pub use client::Client;
pub use stream::{ExitStream, Stream};

/// An answer, with the descriptors that came with it.
pub type Answer = (reply::Result, Vec<OwnedFd>);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("reach init at {MACHINE_SOCKET}: {0}")]
    Unreachable(#[source] io::Error),
    #[error("init does not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("init closed the connection without an answer")]
    Closed,
    #[error("init's answer is not of the machine socket's protocol")]
    Unreadable,
    /// PID 1's own words.
    #[error("{message}")]
    Refused { code: error::Code, message: String },
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Unreachable(error) => error.kind(),
            CallError::Late(_) => io::ErrorKind::TimedOut,
            CallError::Closed => io::ErrorKind::UnexpectedEof,
            CallError::Unreadable => io::ErrorKind::InvalidData,
            CallError::Refused { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn connect() -> Result<FramedSocket, CallError> {
    FramedSocket::connect(MACHINE_SOCKET, MAX_FRAME).map_err(CallError::Unreachable)
}

async fn send(
    socket: &FramedSocket,
    actor: &str,
    call: request::Call,
    descriptors: &[std::os::fd::RawFd],
) -> Result<(), CallError> {
    let request = Request { id: 1, actor: actor.into(), call: Some(call) };
    socket.send(&request.encode_to_vec(), descriptors).await.map_err(CallError::Unreachable)
}

/// The next frame, and whether more follow. `None` at the end of the connection.
async fn receive(socket: &mut FramedSocket) -> Result<Option<(Answer, bool)>, CallError> {
    let Some((frame, descriptors)) = socket.recv().await.map_err(CallError::Unreachable)? else {
        return Ok(None);
    };
    let reply = Reply::decode(&*frame).map_err(|_| CallError::Unreadable)?;
    match reply.result.ok_or(CallError::Unreadable)? {
        reply::Result::Error(error) => Err(CallError::Refused { code: error.code(), message: error.message }),
        result => Ok(Some(((result, descriptors), reply.more))),
    }
}
