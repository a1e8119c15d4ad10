//! Telling init how the agent is.
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use machine::socket::{Condition, Empty, MAX_FRAME, Reply, Request, reply, request};
use prost::Message as _;
use sys::framed::FramedSocket;

const ANSWER: Duration = Duration::from_secs(10);

async fn call(call: request::Call) -> anyhow::Result<()> {
    let exchange = async {
        let mut socket = FramedSocket::connect(machine::paths::MACHINE_SOCKET, MAX_FRAME)?;
        let request = Request { id: 1, actor: String::new(), call: Some(call) };
        socket.send(&request.encode_to_vec(), &[]).await?;
        let (frame, _) = socket.recv().await?.ok_or_else(|| anyhow!("closed without an answer"))?;
        match Reply::decode(frame.as_slice())?.result {
            Some(reply::Result::Error(error)) => bail!("{}", error.message),
            _ => Ok(()),
        }
    };
    tokio::time::timeout(ANSWER, exchange)
        .await
        .map_err(|_| anyhow!("no answer within {} s", ANSWER.as_secs()))
        .and_then(|result| result)
        .with_context(|| format!("call init at {}", machine::paths::MACHINE_SOCKET))
}

/// The agent is ready: static pods run.
///
/// # Errors
/// When init does not take it.
pub async fn ready() -> anyhow::Result<()> {
    call(request::Call::Ready(Empty {})).await
}

/// Reports whether the node is Ready.
///
/// # Errors
/// When init does not take it.
pub async fn node_ready(ok: bool, reason: &str, message: &str, since_unix_ms: i64) -> anyhow::Result<()> {
    call(request::Call::ReportCondition(Condition {
        name: "NodeReady".into(),
        ok,
        reason: reason.into(),
        message: message.into(),
        since_unix_ms,
        reporter: String::new(),
    }))
    .await
}
