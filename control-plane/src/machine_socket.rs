//! The few calls that this process makes to PID 1.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use machine::socket::{Condition, Empty, MAX_FRAME, Reply, Request, reply, request};
use prost::Message;
use sys::framed::FramedSocket;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

/// Tells PID 1 that the service is ready.
///
/// # Errors
/// When PID 1 does not answer or refuses.
pub async fn ready() -> Result<()> {
    call(request::Call::Ready(Empty {})).await.context("tell init that the control plane is ready")
}

/// Reports what `pintle health` shows.
///
/// # Errors
/// When PID 1 does not answer or refuses.
pub async fn report(name: &str, ok: bool, reason: &str, message: &str) -> Result<()> {
    let condition = Condition {
        name: name.into(),
        ok,
        reason: reason.into(),
        message: message.into(),
        since_unix_ms: jiff::Timestamp::now().as_millisecond(),
        reporter: String::new(),
    };
    call(request::Call::ReportCondition(condition)).await.with_context(|| format!("report {name} to init"))
}

async fn call(call: request::Call) -> Result<()> {
    let exchange = async {
        let mut socket = FramedSocket::connect(machine::paths::MACHINE_SOCKET, MAX_FRAME)?;
        let request = Request { id: 1, actor: String::new(), call: Some(call) };
        socket.send(&request.encode_to_vec(), &[]).await?;
        let (frame, _) = socket.recv().await?.context("init closed the connection")?;
        match Reply::decode(&*frame)?.result {
            Some(reply::Result::Error(error)) => bail!("{}", error.message),
            _ => Ok(()),
        }
    };
    timeout(DEADLINE, exchange).await.context("no answer on the machine socket within 10 s")?
}
