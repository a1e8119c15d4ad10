//! The machine socket: what processes on the node ask of PID 1. Callers are services,
//! known by process, user and cgroup before a byte is read, and each has a share of the connections.
mod access;
mod calls;
mod sign;
mod streams;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::paths;
use machine::socket::{Error, MAX_FRAME, Reply, Request, error::Code, reply, request};
use node_kit::accept::{self, Seldom};
use prost::Message;
use sys::framed::FramedSocket;
use tokio::net::{UnixListener, UnixStream};

use crate::node::Machine;
use crate::places::{Place, Places};
use access::{Caller, Limits};

/// Connections of each service.
const SHARE: usize = 32;
/// A peer that does not read its reply for this long is dropped.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// How long a request may take from its first byte on.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// What a call yields: a result with descriptors, or what went wrong.
type Outcome = Result<(reply::Result, Vec<OwnedFd>), Error>;

/// Serves for ever.
///
/// # Errors
/// When the socket cannot be made or listened on.
pub async fn serve(machine: Machine) -> Result<()> {
    let _ = std::fs::remove_file(paths::MACHINE_SOCKET);
    let listener = UnixListener::bind(paths::MACHINE_SOCKET)
        .with_context(|| format!("listen on {}", paths::MACHINE_SOCKET))?;
    // Two of the services have users of their own. Who is no service is turned away whatever its user is.
    std::fs::set_permissions(paths::MACHINE_SOCKET, std::fs::Permissions::from_mode(0o666))?;
    let_in(listener, Caller::of, move |caller, stream, place| {
        let machine = machine.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = serve_connection(&machine, &caller, stream).await {
                tracing::debug!("machine socket: {error:#}");
            }
        });
    })
    .await
}

/// Lets in whom `identify` knows and who has a place.
async fn let_in(
    listener: UnixListener,
    identify: impl Fn(&UnixStream) -> std::io::Result<Caller>,
    serve: impl Fn(Caller, UnixStream, Place),
) -> Result<()> {
    let (places, seldom) = (Places::new(SHARE), Seldom::new());
    loop {
        let stream = accept::unix(&listener).await;
        let turned_away = match identify(&stream) {
            Ok(caller) => match places.take(caller.service) {
                Some(place) => {
                    serve(caller, stream, place);
                    continue;
                }
                None => format!("{caller} has {SHARE} connections already"),
            },
            Err(error) => error.to_string(),
        };
        if seldom.may_say() {
            tracing::warn!("machine socket: turned away: {turned_away}");
        }
    }
}

async fn serve_connection(machine: &Machine, caller: &Caller, stream: UnixStream) -> Result<()> {
    let Limits { request, idle } = caller.limits();
    let mut socket = FramedSocket::of(stream, MAX_FRAME).limited(request, REQUEST_DEADLINE);
    while let Some((frame, descriptors)) = receive(&mut socket, idle).await? {
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
                let outcome = calls::answer(machine, caller, &request.actor, call, descriptors).await;
                send(&socket, id, false, outcome).await?;
            }
        }
    }
    Ok(())
}

async fn receive(
    socket: &mut FramedSocket,
    patience: Option<Duration>,
) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let received = match patience {
        Some(patience) => {
            tokio::time::timeout(patience, socket.recv()).await.context("the peer asks for nothing")?
        }
        None => socket.recv().await,
    };
    Ok(received?)
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
pub mod tests;
