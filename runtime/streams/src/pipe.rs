//! One stream of a multiplexed connection as a reader and a writer, both bounded.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Pieces that wait in one stream for its reader.
const WAITING: usize = 8;
/// Pieces of all streams that wait for the connection.
pub const OUTGOING: usize = 16;
/// The largest piece on its way out.
const PIECE: usize = 32 << 10;

/// What goes out on a connection.
#[derive(Debug)]
pub enum Out {
    Data {
        id: u32,
        piece: Bytes,
    },
    Finish {
        id: u32,
    },
    /// The peer may send this much more on a stream (SPDY).
    Window {
        id: u32,
        bytes: u32,
    },
    /// A stream is accepted (SPDY).
    Reply {
        id: u32,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Pong {
        id: u32,
    },
}

/// The connection's end of a stream's reader.
#[derive(Debug)]
pub struct Feed {
    pieces: mpsc::Sender<Bytes>,
    finished: Arc<AtomicBool>,
}

impl Feed {
    /// Hands a piece on; waits while the reader is behind. A reader that is gone takes no more, which is no error.
    pub async fn push(&self, piece: Bytes) {
        if !piece.is_empty() {
            let _ = self.pieces.send(piece).await;
        }
    }

    /// Whether the reader is gone: nobody wants what still comes.
    pub fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }

    /// The peer has ended the stream in good order.
    pub fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }
}

/// Reads a stream: it ends where the peer ended it, and fails when the connection breaks before that.
#[derive(Debug)]
pub struct StreamReader {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
    finished: Arc<AtomicBool>,
    /// Where to tell that what was read makes room.
    window: Option<(u32, mpsc::Sender<Out>)>,
    unreported: u32,
}

/// A stream's reader and the feed for it.
pub fn reader(window: Option<(u32, mpsc::Sender<Out>)>) -> (Feed, StreamReader) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let finished = Arc::new(AtomicBool::new(false));
    let reader =
        StreamReader { pieces, piece: Bytes::new(), finished: finished.clone(), window, unreported: 0 };
    (Feed { pieces: sender, finished }, reader)
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.piece.is_empty() {
            match ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.piece = piece,
                None if self.finished.load(Ordering::Acquire) => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let length = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece[..length]);
        self.piece.advance(length);
        self.unreported += length as u32;
        let bytes = self.unreported;
        if bytes >= PIECE as u32 / 2
            && let Some((id, out)) = &self.window
            && out.try_send(Out::Window { id: *id, bytes }).is_ok()
        {
            self.unreported = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes a stream; waits while the connection is behind.
#[derive(Debug)]
pub struct StreamWriter {
    id: u32,
    out: PollSender<Out>,
    finished: Arc<AtomicBool>,
}

/// Ends a stream if its writer has not.
#[derive(Debug)]
pub struct Finisher {
    id: u32,
    out: mpsc::Sender<Out>,
    finished: Arc<AtomicBool>,
}

/// A stream's writer, and what ends the stream for it.
pub fn writer(id: u32, out: &mpsc::Sender<Out>) -> (StreamWriter, Finisher) {
    let finished = Arc::new(AtomicBool::new(false));
    let writer = StreamWriter { id, out: PollSender::new(out.clone()), finished: finished.clone() };
    (writer, Finisher { id, out: out.clone(), finished })
}

impl Finisher {
    pub async fn finish(&self) {
        if !self.finished.swap(true, Ordering::AcqRel) {
            let _ = self.out.send(Out::Finish { id: self.id }).await;
        }
    }

    /// Tells the peer that the stream is none (SPDY).
    pub async fn reset(&self, status: u32) {
        if !self.finished.swap(true, Ordering::AcqRel) {
            let _ = self.out.send(Out::Reset { id: self.id, status }).await;
        }
    }
}

fn broken<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(broken(())));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.out.poll_reserve(context)).map_err(broken)?;
        let length = data.len().min(PIECE);
        let (id, piece) = (self.id, Bytes::copy_from_slice(&data[..length]));
        self.out.send_item(Out::Data { id, piece }).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.out.poll_reserve(context)).map_err(broken)?;
        self.finished.store(true, Ordering::Release);
        let id = self.id;
        Poll::Ready(self.out.send_item(Out::Finish { id }).map_err(broken))
    }
}
