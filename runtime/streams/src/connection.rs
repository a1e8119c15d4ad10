//! How a streaming connection ends, whichever protocol it speaks, and how one is noticed whose client has vanished.
use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long the last bytes may take to the client.
const LAST_BYTES: Duration = Duration::from_secs(60);
/// How long the client may take to close after we have.
const CLOSE: Duration = Duration::from_secs(5);

/// A silent client is asked whether it is there after so many seconds, and then at such intervals.
const ASK_AFTER: u32 = 30;
const ASK_EVERY: u32 = 15;
/// So many questions without an answer, and it is gone.
const ASK_TIMES: u32 = 4;
/// Milliseconds after which a client is gone that takes nothing of what it was sent: as long as the questions last.
const TAKEN_WITHIN: u32 = (ASK_AFTER + ASK_EVERY * ASK_TIMES) * 1000;

/// Has the kernel notice that a client is gone which could not say so.
///
/// # Errors
/// As setsockopt(2).
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &ASK_AFTER)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &ASK_EVERY)?;
    setsockopt(stream, sockopt::TcpKeepCount, &ASK_TIMES)?;
    Ok(setsockopt(stream, sockopt::TcpUserTimeout, &TAKEN_WITHIN)?)
}

/// Waits until everything is written and the client has closed. Closing with unread bytes would reset the connection and could take
/// what is still on its way to the client with it.
pub async fn linger(mut writing: JoinSet<io::Result<()>>, mut socket: impl AsyncRead + Unpin) {
    match tokio::time::timeout(LAST_BYTES, writing.join_next()).await {
        Ok(Some(Ok(Ok(())))) => {}
        Ok(_) => return,
        Err(_) => {
            writing.abort_all();
            tracing::debug!("a streaming client did not take its last bytes");
            return;
        }
    }
    let mut sink = [0; 4096];
    let drain = async { while socket.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(CLOSE, drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_that_vanish_are_noticed_within_two_minutes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        keep_alive(&ours).unwrap();
        use nix::sys::socket::getsockopt;
        assert!(getsockopt(&ours, sockopt::KeepAlive).unwrap());
        let asked = getsockopt(&ours, sockopt::TcpKeepIdle).unwrap()
            + getsockopt(&ours, sockopt::TcpKeepInterval).unwrap()
                * getsockopt(&ours, sockopt::TcpKeepCount).unwrap();
        assert!(asked <= 120 && getsockopt(&ours, sockopt::TcpUserTimeout).unwrap() <= 120_000, "{asked}");
        drop(client);
    }
}
