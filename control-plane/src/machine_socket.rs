//! What this process tells PID 1.
use anyhow::{Context, Result};
use node_kit::machine_socket::Client;

/// Tells PID 1 that the service is ready.
///
/// # Errors
/// When PID 1 does not answer or refuses.
pub async fn ready() -> Result<()> {
    Client::default().ready().await.context("tell init that the control plane is ready")
}

/// Reports what `pintle health` shows.
///
/// # Errors
/// When PID 1 does not answer or refuses.
pub async fn report(name: &str, ok: bool, reason: &str, message: &str) -> Result<()> {
    let now = jiff::Timestamp::now().as_millisecond();
    Client::default()
        .report(name, ok, reason, message, now)
        .await
        .with_context(|| format!("report {name} to init"))
}
