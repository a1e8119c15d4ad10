//! The import socket: the machine API hands archives of images over by it.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use images::Store;
use node_kit::accept;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may send nothing in the midst of its archive: it holds one of few places.
const SILENCE: Duration = Duration::from_secs(60);

/// Serves the import socket: one archive per connection, one JSON line in return. Does not end.
pub async fn serve(listener: UnixListener, store: Store) {
    let clients = futures::stream::unfold(listener, |listener| async move {
        Some((accept::unix(&listener).await, listener))
    });
    serve_from(Box::pin(clients), store).await;
}

async fn serve_from(mut clients: impl Stream<Item = UnixStream> + Unpin, store: Store) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(images::IMPORTS));
    // The semaphore is never closed, and a listener gives clients for ever.
    while let Ok(slot) = slots.clone().acquire_owned().await
        && let Some(stream) = clients.next().await
    {
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

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_gives_its_place_back() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), Path::new("/nonexistent"), Vec::new()).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let clients = futures::stream::iter([server]).chain(futures::stream::pending());
        let mut answer = String::new();
        tokio::select! {
            () = serve_from(clients, store) => panic!("the listener ended"),
            read = client.read_to_string(&mut answer) => drop(read.unwrap()),
        }
        assert!(answer.contains("timed out"), "{answer}");
    }
}
