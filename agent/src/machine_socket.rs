//! Telling init how the agent is.
use anyhow::Context as _;
use node_kit::machine_socket::Client;

/// The agent is ready: static pods run.
///
/// # Errors
/// When init does not take it.
pub async fn ready() -> anyhow::Result<()> {
    Client::default().ready().await.context("tell init that the agent is ready")
}

/// The node's services, as PID 1 knows them.
///
/// # Errors
/// When init does not answer.
pub async fn services() -> anyhow::Result<Vec<machine::socket::Service>> {
    Client::default().services().await.context("ask init for the services")
}

/// Reports whether the node is Ready.
///
/// # Errors
/// When init does not take it.
pub async fn node_ready(ok: bool, reason: &str, message: &str, since_unix_ms: i64) -> anyhow::Result<()> {
    let client = Client::default();
    client.report("NodeReady", ok, reason, message, since_unix_ms).await.context("report NodeReady to init")
}
