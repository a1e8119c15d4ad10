//! Calls on the machine socket, with errors as the machine API's clients get them.
use std::os::fd::OwnedFd;

use machine::socket::{error::Code, request};
use node_kit::machine_socket::{Answer, CallError, Stream};
use tonic::Status;

/// One call on a connection of its own.
///
/// # Errors
/// init's own error, or UNAVAILABLE when it does not answer.
pub async fn call(actor: &str, call: request::Call) -> Result<Answer, Status> {
    Stream::call(actor, call).await.map_err(status)
}

/// One call and the one descriptor it is answered with.
///
/// # Errors
/// As [`call`]; INTERNAL when no descriptor came.
pub async fn descriptor(actor: &str, call: request::Call) -> Result<OwnedFd, Status> {
    Stream::descriptor(actor, call).await.map_err(status)
}

/// What a client of the machine API is told.
pub fn status(error: CallError) -> Status {
    let message = error.to_string();
    match error {
        CallError::Unreachable(_) | CallError::Closed => Status::unavailable(message),
        CallError::Late(_) => Status::deadline_exceeded(message),
        CallError::Unreadable => Status::internal(message),
        CallError::Refused { code, .. } => match code {
            Code::Internal => Status::internal(message),
            Code::Invalid => Status::invalid_argument(message),
            Code::NotFound => Status::not_found(message),
            Code::Denied => Status::permission_denied(message),
            Code::Unavailable => Status::unavailable(message),
            Code::Timeout => Status::deadline_exceeded(message),
        },
    }
}
