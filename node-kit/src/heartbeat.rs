//! A service's sign of life: PID 1 ends and starts again whoever gives none.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::hooks;
use crate::machine_socket::Client;
use crate::tasks::{self, Ended};

/// Between two signs. PID 1 waits for several of them (`init/src/services/heartbeat.rs`).
const EVERY: Duration = Duration::from_secs(2);

/// The service cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct EssentialTask(#[from] Arc<Ended>);

/// Runs a service and gives PID 1 a sign of life from the same thread, so that none comes while that hangs. Where there is no PID 1 of ours, as in tests, it
/// runs the service and looks for one in vain.
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
        () = sign(Client::find) => std::future::pending().await,
        () = hooks::obey(name) => std::future::pending().await,
    }
}

/// Signs for ever. The socket may come later than the service, as that of the first service of a boot.
async fn sign(mut find: impl FnMut() -> Option<Client>) {
    let client = loop {
        match find() {
            Some(client) => break client,
            None => tokio::time::sleep(EVERY).await,
        }
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_there_before_the_socket_signs_as_soon_as_it_is_there() {
        let (found, mut wait) = tokio::sync::mpsc::unbounded_channel();
        let start = tokio::time::Instant::now();
        let mut looks = 0;
        let find = move || {
            looks += 1;
            let client = (looks == 3).then(Client::default);
            if client.is_some() {
                let _ = found.send(start.elapsed());
            }
            client
        };
        let signing = tokio::spawn(sign(find));
        assert_eq!(wait.recv().await, Some(EVERY * 2));
        signing.abort();
    }
}
