//! The import socket: the machine API hands archives of images over by it.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use images::Store;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};

/// The pause after a client that could not be taken.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// How long a client may send nothing in the midst of its archive: it holds one of few places.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves the import socket: one archive per connection, one JSON line in return. Does not end.
pub async fn serve(listener: UnixListener, store: Store) {
    serve_from(UnixListenerStream::new(listener), store).await;
}

async fn serve_from(mut clients: impl Stream<Item = io::Result<UnixStream>> + Unpin, store: Store) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(images::IMPORTS));
    // The semaphore is never closed, and a listener gives clients for ever.
    while let Ok(slot) = slots.clone().acquire_owned().await
        && let Some(client) = clients.next().await
    {
        let stream = match client {
            Ok(stream) => stream,
            // A client that was quick to go, or descriptors that others hold for now: either passes.
            Err(error) => {
                tracing::warn!(%error, "a client of the import socket was not taken");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        if !crate::peers::admits(&stream) {
            continue;
        }
        let store = store.clone();
        tokio::spawn(async move {
            answer(stream, &store).await;
            drop(slot);
        });
    }
}

async fn answer(stream: UnixStream, store: &Store) {
    let (read, mut write) = stream.into_split();
    let read = Patient { read, until: Box::pin(sleep(SILENCE)) };
    let line = match store.import(read).await {
        Ok(names) => serde_json::json!({ "names": names }),
        Err(error) => {
            tracing::warn!(%error, "an import failed");
            serde_json::json!({ "error": error.to_string() })
        }
    };
    if let Err(error) = write.write_all(format!("{line}\n").as_bytes()).await {
        tracing::debug!(%error, "the importing client did not wait for its answer");
    }
}

/// A client's archive, which ends with an error when nothing comes for [`SILENCE`].
struct Patient {
    read: OwnedReadHalf,
    until: Pin<Box<Sleep>>,
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.read).poll_read(context, buffer) {
            this.until.as_mut().reset(Instant::now() + SILENCE);
            return Poll::Ready(read);
        }
        this.until.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nix::errno::Errno;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// EMFILE comes from what other clients have open, ECONNABORTED from a client that was quick to go.
    #[tokio::test(start_paused = true)]
    async fn the_import_socket_outlives_errors_of_accept() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), Path::new("/nonexistent"), Vec::new()).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let failed = |errno: Errno| Err(io::Error::from(errno));
        let script = [failed(Errno::EMFILE), failed(Errno::ECONNABORTED), failed(Errno::EINTR), Ok(server)];
        let clients = futures::stream::iter(script).chain(futures::stream::pending());
        let mut answer = String::new();
        let talk = async {
            client.shutdown().await.unwrap();
            client.read_to_string(&mut answer).await.unwrap();
        };
        tokio::select! {
            () = serve_from(clients, store) => panic!("the listener ended"),
            () = talk => {}
        }
        assert!(answer.contains("error"), "{answer}");
    }
    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_gives_its_place_back() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), Path::new("/nonexistent"), Vec::new()).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let clients = futures::stream::iter([Ok(server)]).chain(futures::stream::pending());
        let mut answer = String::new();
        tokio::select! {
            () = serve_from(clients, store) => panic!("the listener ended"),
            read = client.read_to_string(&mut answer) => drop(read.unwrap()),
        }
        assert!(answer.contains("timed out"), "{answer}");
    }
}
