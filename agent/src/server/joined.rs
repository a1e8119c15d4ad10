//! Two upgraded connections made one, for as long as anything passes.
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Copies both ways until both have ended, one fails, or nothing has passed for `idle`.
pub(super) async fn join<A, B>(a: &mut A, b: &mut B, idle: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (begun, last) = (Instant::now(), AtomicU64::new(0));
    let (mut a, mut b) = (Watched { inner: a, begun, last: &last }, Watched { inner: b, begun, last: &last });
    let mut copied = std::pin::pin!(tokio::io::copy_bidirectional(&mut a, &mut b));
    loop {
        let until = begun + Duration::from_millis(last.load(Ordering::Relaxed)) + idle;
        tokio::select! {
            // An end on either side is an ordinary end of the stream.
            _ = &mut copied => return,
            () = tokio::time::sleep_until(until) => {
                if begun + Duration::from_millis(last.load(Ordering::Relaxed)) + idle <= Instant::now() {
                    return;
                }
            }
        }
    }
}

/// Notes when something was last read.
struct Watched<'a, S> {
    inner: &'a mut S,
    begun: Instant,
    /// Milliseconds since `begun`.
    last: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let answer = Pin::new(&mut *self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last.store(now, Ordering::Relaxed);
        }
        answer
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const IDLE: Duration = Duration::from_secs(4 * 3600);

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_nothing_has_passed_for_four_hours() {
        let (mut client, mut a) = tokio::io::duplex(16);
        let (mut runtime, mut b) = tokio::io::duplex(16);
        let begun = Instant::now();
        let joined = tokio::spawn(async move { join(&mut a, &mut b, IDLE).await });
        for _ in 0..3 {
            tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
            client.write_all(b"ping").await.unwrap();
            let mut bytes = [0; 4];
            runtime.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"ping");
        }
        joined.await.unwrap();
        let took = begun.elapsed().as_secs();
        assert_eq!(took, 3 * (IDLE.as_secs() - 1) + IDLE.as_secs());
        assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0, "both sides are closed");
    }
}
