//! The server's side of a SPDY/3.1 connection: streams that the peer opens.
//!
//! Flow control: what is read is reported by WINDOW_UPDATE; the peer's windows are not waited for, because Kubernetes' own SPDY
//! library never opens them again. Backpressure is the connection's: a stream whose reader is behind by its bounded queue holds the
//! connection up.
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::pipe::{self, Feed, Finisher, Out, StreamReader, StreamWriter};

mod dictionary;
pub(crate) mod frame;

use frame::{Decoder, Encoder, Frame, PROTOCOL_ERROR, REFUSED_STREAM};

/// The most streams open at once, and the most that are remembered for what the peer still sends on them.
const MAX_STREAMS: usize = 512;
/// How much is gathered before it is written.
const BATCH: usize = 64 << 10;

/// A stream that the peer has opened.
#[derive(Debug)]
pub struct NewStream {
    pub id: u32,
    headers: Vec<(String, String)>,
    pub reader: StreamReader,
    pub writer: StreamWriter,
    pub finisher: Finisher,
    /// Counts the stream as open for as long as it is held.
    pub open: Arc<()>,
}

impl NewStream {
    /// A header's value; names are lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Tells the peer that the stream is not one we take, and forgets it.
    pub async fn refuse(self) {
        self.finisher.reset(REFUSED_STREAM).await;
    }
}

/// The streams on which the peer may still send.
#[derive(Debug, Default)]
struct Feeds(HashMap<u32, Feed>);

impl Feeds {
    /// Whether there is room for one more. Streams that nobody reads any more make room: the peer need not end them.
    fn has_room(&mut self) -> bool {
        if self.0.len() >= MAX_STREAMS {
            self.0.retain(|_, feed| !feed.is_closed());
        }
        self.0.len() < MAX_STREAMS
    }

    async fn push(&mut self, id: u32, piece: Bytes) {
        match self.0.get(&id) {
            Some(feed) if feed.is_closed() => drop(self.0.remove(&id)),
            Some(feed) => feed.push(piece).await,
            None => {}
        }
    }

    fn finish(&mut self, id: u32) {
        if let Some(feed) = self.0.remove(&id) {
            feed.finish();
        }
    }
}

/// Reads the connection until its end, and hands on the streams that the peer opens.
///
/// # Errors
/// When the connection breaks or the peer breaks the protocol.
pub async fn read(
    socket: impl AsyncRead + Unpin,
    out: mpsc::Sender<Out>,
    streams: mpsc::Sender<NewStream>,
) -> io::Result<()> {
    read_into(socket, out, streams, &mut Feeds::default()).await
}

async fn read_into(
    mut socket: impl AsyncRead + Unpin,
    out: mpsc::Sender<Out>,
    streams: mpsc::Sender<NewStream>,
    feeds: &mut Feeds,
) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(16 << 10);
    let (open, mut last) = (Arc::new(()), 0);
    loop {
        while let Some(frame) =
            decoder.next(&mut buffer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
        {
            match frame {
                Frame::SynStream { id, headers, fin } => {
                    if id <= last || id % 2 == 0 {
                        send(&out, Out::Reset { id, status: PROTOCOL_ERROR }).await?;
                        continue;
                    }
                    if Arc::strong_count(&open) > MAX_STREAMS || !feeds.has_room() {
                        send(&out, Out::Reset { id, status: REFUSED_STREAM }).await?;
                        continue;
                    }
                    last = id;
                    let (feed, reader) = pipe::reader(Some((id, out.clone())));
                    let (writer, finisher) = pipe::writer(id, &out);
                    if fin {
                        feed.finish()
                    } else {
                        drop(feeds.0.insert(id, feed))
                    }
                    // The reply goes first: the peer drops data of a stream that has none.
                    send(&out, Out::Reply { id }).await?;
                    let stream = NewStream { id, headers, reader, writer, finisher, open: open.clone() };
                    if streams.send(stream).await.is_err() {
                        return Ok(());
                    }
                }
                Frame::Data { id, piece, fin } => {
                    feeds.push(id, piece).await;
                    if fin {
                        feeds.finish(id);
                    }
                }
                Frame::Finish { id } => feeds.finish(id),
                Frame::Reset { id } => drop(feeds.0.remove(&id)),
                // Ours would be even; those come back and mean nothing here.
                Frame::Ping { id } if id % 2 == 1 => send(&out, Out::Pong { id }).await?,
                Frame::GoAway => return Ok(()),
                Frame::Ping { .. } | Frame::Ignored => {}
            }
        }
        buffer.reserve(16 << 10);
        if socket.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn send(out: &mpsc::Sender<Out>, item: Out) -> io::Result<()> {
    out.send(item).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Writes what goes out until every sender is gone, then shuts the socket's write side down.
///
/// # Errors
/// When the connection breaks.
pub async fn write(mut socket: impl AsyncWrite + Unpin, mut out: mpsc::Receiver<Out>) -> io::Result<()> {
    let mut encoder = Encoder::default();
    let mut bytes = BytesMut::new();
    while let Some(first) = out.recv().await {
        encode(&mut encoder, &mut bytes, first);
        while bytes.len() < BATCH
            && let Ok(more) = out.try_recv()
        {
            encode(&mut encoder, &mut bytes, more);
        }
        socket.write_all_buf(&mut bytes).await?;
        socket.flush().await?;
        bytes.clear();
    }
    socket.shutdown().await
}

fn encode(encoder: &mut Encoder, bytes: &mut BytesMut, item: Out) {
    match item {
        Out::Data { id, piece } => {
            Encoder::data(bytes, id, piece.len(), false);
            bytes.extend_from_slice(&piece);
        }
        Out::Finish { id } => Encoder::data(bytes, id, 0, true),
        Out::Window { id, bytes: delta } => {
            Encoder::window_update(bytes, id, delta);
            Encoder::window_update(bytes, 0, delta);
        }
        Out::Reply { id } => encoder.reply(bytes, id),
        Out::Reset { id, status } => Encoder::reset(bytes, id, status),
        Out::Pong { id } => Encoder::ping(bytes, id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams with the given ids, and what the server does with each.
    async fn opened(ids: impl Iterator<Item = u32>, mut each: impl FnMut(NewStream)) -> (Feeds, Vec<Out>) {
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        for id in ids {
            encoder.syn_stream(&mut bytes, id, &[("streamtype", "data")]);
        }
        let (out, mut outgoing) = mpsc::channel(pipe::OUTGOING);
        let (streams, mut new) = mpsc::channel(8);
        let mut feeds = Feeds::default();
        let told = async {
            let mut told = Vec::new();
            while let Some(item) = outgoing.recv().await {
                told.push(item);
            }
            told
        };
        let taken = async {
            while let Some(stream) = new.recv().await {
                each(stream);
            }
            // Those that were kept still hold the way out.
            drop(each);
        };
        let (read, (), told) = tokio::join!(read_into(&bytes[..], out, streams, &mut feeds), taken, told);
        read.unwrap();
        (feeds, told)
    }

    #[tokio::test]
    async fn streams_that_nobody_reads_are_forgotten() {
        let (feeds, _) = opened((0..100_000).map(|n| 2 * n + 1), drop).await;
        assert!(feeds.0.len() <= MAX_STREAMS, "{} streams are remembered", feeds.0.len());
    }

    #[tokio::test]
    async fn streams_beyond_the_most_are_refused() {
        let mut kept = Vec::new();
        let (feeds, told) = opened((0..600).map(|n| 2 * n + 1), |stream| kept.push(stream.open)).await;
        let refused = |item: &&Out| matches!(item, Out::Reset { status: REFUSED_STREAM, .. });
        assert!(feeds.0.len() <= MAX_STREAMS && told.iter().filter(refused).count() >= 600 - MAX_STREAMS);
    }
}
