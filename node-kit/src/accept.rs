//! Accepting that never ends: a client that has gone again, or that no descriptor or memory is left for now, is no reason to listen no more.
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::Instant;

/// Before a listener that has failed is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// What goes wrong again and again is said once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The next client.
pub async fn unix(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => pause(&error).await,
        }
    }
}

/// The next client, and its address.
pub async fn tcp(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    static SAID: Seldom = Seldom::new();
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    if SAID.may_say() {
        tracing::warn!(%error, "accept a connection; trying on");
    }
    tokio::time::sleep(AGAIN).await;
}

/// Lets something be said once in a minute: whoever causes it may not fill the log.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Nothing has been said yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether it may be said now.
    pub fn may_say(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|said| said.elapsed() >= SAY_AGAIN);
        if may {
            *said = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_repeats_is_said_once_a_minute() {
        let seldom = Seldom::new();
        assert!(seldom.may_say());
        assert!(!seldom.may_say());
        tokio::time::advance(SAY_AGAIN).await;
        assert!(seldom.may_say());
    }
}
