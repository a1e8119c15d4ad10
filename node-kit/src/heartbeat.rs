//! A service's sign of life: PID 1 ends and starts again whoever gives none.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::hooks;
use crate::machine_socket::Client;
use crate::tasks::{self, Ended};

/// Between two signs. PID 1 waits for several of them (`machine::heartbeat`).
const EVERY: Duration = Duration::from_secs(2);

/// The service cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct EssentialTask(#[from] Arc<Ended>);

/// Runs a service and gives PID 1 a sign of life from the same thread, so that none comes while that hangs. Where there is no PID 1 of ours, as in tests, it
/// only runs the service.
///
/// # Errors
/// The service's own, and that one of its essential tasks has ended ([`tasks::essential`]).
pub async fn alongside<E: From<EssentialTask>>(
    name: &str,
    service: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    tokio::select! {
        ended = service => ended,
        ended = tasks::first_end() => Err(EssentialTask(ended).into()),
        () = sign() => std::future::pending().await,
        () = hooks::obey(name) => std::future::pending().await,
    }
}

async fn sign() {
    let Some(client) = Client::find() else { return std::future::pending().await };
    let mut lost = false;
    loop {
        match client.alive().await {
            Ok(()) => lost = false,
            // Said once: PID 1 may just be coming back.
            Err(error) if !lost => {
                lost = true;
                tracing::warn!("give init a sign of life: {error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}
