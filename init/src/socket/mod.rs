//! The machine socket: what processes on the node ask of PID 1. Connections are bounded, callers are known by uid and cgroup.
mod access;
mod calls;
mod sign;
mod streams;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::paths;
use machine::socket::{Error, MAX_FRAME, Reply, Request, error::Code, reply, request};
use prost::Message;
use sys::framed::FramedSocket;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::node::Machine;
pub use access::Caller;

const CONNECTIONS: usize = 256;
/// A peer that does not read its reply for this long is dropped.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// What a call yields: a result with descriptors, or what went wrong.
type Outcome = Result<(reply::Result, Vec<OwnedFd>), Error>;

/// Serves until the listener fails.
///
/// # Errors
/// When the socket cannot be made or listened on.
pub async fn serve(machine: Machine) -> Result<()> {
    let _ = std::fs::remove_file(paths::MACHINE_SOCKET);
    let listener = UnixListener::bind(paths::MACHINE_SOCKET)
        .with_context(|| format!("listen on {}", paths::MACHINE_SOCKET))?;
    std::fs::set_permissions(paths::MACHINE_SOCKET, std::fs::Permissions::from_mode(0o666))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // No room: callers wait in the listen queue.
        let permit = room.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await.context("accept on the machine socket")?;
        let machine = machine.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let framed = stream.into_std().and_then(|s| FramedSocket::new(s, MAX_FRAME));
            let served = match framed {
                Ok(socket) => serve_connection(&machine, socket).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                tracing::debug!("machine socket: {error:#}");
            }
        });
    }
}

async fn serve_connection(machine: &Machine, mut socket: FramedSocket) -> Result<()> {
    let caller = Caller::of(&socket.peer().context("read the peer's credentials")?);
    while let Some((frame, descriptors)) = socket.recv().await? {
        let request = Request::decode(frame.as_slice()).context("malformed request")?;
        let id = request.id;
        let Some(call) = request.call else {
            send(&socket, id, false, Err(error(Code::Invalid, "the request names no call"))).await?;
            continue;
        };
        if !caller.may(&call) {
            let message = format!("{caller} may not ask for this");
            send(&socket, id, false, Err(error(Code::Denied, &message))).await?;
            continue;
        }
        match call {
            request::Call::WatchExits(_) => streams::exits(machine, &mut socket, id).await?,
            request::Call::WatchEvents(from) => {
                streams::events(machine, &mut socket, id, from.after_sequence).await?;
            }
            call => {
                let outcome = calls::answer(machine, &caller, &request.actor, call, descriptors).await;
                send(&socket, id, false, outcome).await?;
            }
        }
    }
    Ok(())
}

async fn send(socket: &FramedSocket, id: u64, more: bool, outcome: Outcome) -> Result<()> {
    let (result, descriptors) = outcome.unwrap_or_else(|error| (reply::Result::Error(error), Vec::new()));
    let frame = Reply { id, more, result: Some(result) }.encode_to_vec();
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    tokio::time::timeout(SEND_DEADLINE, socket.send(&frame, &raw))
        .await
        .context("the peer does not read")??;
    Ok(())
}

fn error(code: Code, message: &str) -> Error {
    Error { code: code.into(), message: message.into() }
}

#[cfg(test)]
mod tests;
