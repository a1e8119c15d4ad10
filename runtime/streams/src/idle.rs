//! When a connection is nobody's any more: nothing has moved on it for hours.
//!
//! Clients that are there ask for an answer now and then (kubectl every few seconds), or are watched by the kernel. One
//! that vanished behind a proxy would keep its command and its place for ever.
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// As long as the kubelet's `streamingConnectionIdleTimeout`.
pub const LIMIT: Duration = Duration::from_secs(4 * 3600);

type Moved = Arc<Mutex<Instant>>;

/// A connection that notes when bytes last moved on it.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    moved: Moved,
}

/// The silence on a connection.
#[derive(Debug)]
pub struct Silence(Moved);

/// Watches a connection.
pub fn watched<S>(inner: S) -> (Watched<S>, Silence) {
    let moved = Arc::new(Mutex::new(Instant::now()));
    (Watched { inner, moved: Arc::clone(&moved) }, Silence(moved))
}

impl Silence {
    /// Waits until it has lasted for [`LIMIT`].
    pub async fn lasts(self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + LIMIT;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl<S> Watched<S> {
    fn note(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, into))?;
        if into.filled().len() > before {
            self.note();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, data))?;
        self.note();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
