//! Calls that send many replies. The connection is the stream's until the caller cancels it or hangs up.
use anyhow::{Context, Result, bail};
use machine::socket::{Empty, Request, reply, request};
use prost::Message;
use sys::framed::FramedSocket;

use super::send;
use crate::node::Machine;

/// How many exits are taken from the ledger at once.
const BATCH: usize = 64;

/// Unacknowledged exits first, then each as it is entered.
pub async fn exits(machine: &Machine, socket: &mut FramedSocket, id: u64) -> Result<()> {
    let mut latest = machine.ledger.subscribe();
    let mut position = 0;
    loop {
        latest.borrow_and_update();
        loop {
            let batch = machine.ledger.after(position, BATCH);
            if batch.is_empty() {
                break;
            }
            for (at, exit) in batch {
                position = at;
                send(socket, id, true, Ok((reply::Result::Exit(exit), Vec::new()))).await?;
            }
        }
        tokio::select! {
            changed = latest.changed() => changed.context("the ledger is gone")?,
            cancelled = cancelled(socket, id) => return end(socket, id, cancelled?).await,
        }
    }
}

/// The events after a sequence number, then each as it happens.
pub async fn events(machine: &Machine, socket: &mut FramedSocket, id: u64, after: u64) -> Result<()> {
    let mut latest = machine.events.subscribe();
    let mut sequence = after;
    loop {
        latest.borrow_and_update();
        for event in machine.events.after(sequence) {
            sequence = event.sequence;
            send(socket, id, true, Ok((reply::Result::Event(event), Vec::new()))).await?;
        }
        tokio::select! {
            changed = latest.changed() => changed.context("the event log is gone")?,
            cancelled = cancelled(socket, id) => return end(socket, id, cancelled?).await,
        }
    }
}

/// Waits for the caller's `Cancel` (true) or for it to hang up (false). Cancel safe, as `recv` is.
async fn cancelled(socket: &mut FramedSocket, id: u64) -> Result<bool> {
    let Some((frame, _)) = socket.recv().await? else { return Ok(false) };
    match Request::decode(frame.as_slice()).context("malformed request")?.call {
        Some(request::Call::Cancel(cancel)) if cancel.stream == id => Ok(true),
        _ => bail!("a request while a stream runs; use a connection of its own"),
    }
}

async fn end(socket: &FramedSocket, id: u64, answer: bool) -> Result<()> {
    if answer {
        send(socket, id, false, Ok((reply::Result::Done(Empty {}), Vec::new()))).await?;
    }
    Ok(())
}
