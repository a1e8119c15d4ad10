//! How a streaming connection ends, whichever protocol it speaks.
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// How long the last bytes may take to the client.
const LAST_BYTES: Duration = Duration::from_secs(60);
/// How long the client may take to close after we have.
const CLOSE: Duration = Duration::from_secs(5);

/// Waits until everything is written and the client has closed. Closing with unread bytes would reset the connection and could take
/// what is still on its way to the client with it.
pub async fn linger(writing: JoinHandle<io::Result<()>>, mut socket: impl AsyncRead + Unpin) {
    let abort = writing.abort_handle();
    match tokio::time::timeout(LAST_BYTES, writing).await {
        Ok(Ok(Ok(()))) => {}
        Ok(_) => return,
        Err(_) => {
            abort.abort();
            tracing::debug!("a streaming client did not take its last bytes");
            return;
        }
    }
    let mut sink = [0; 4096];
    let drain = async { while socket.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(CLOSE, drain).await;
}
