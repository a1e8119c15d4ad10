//! The channel protocols over WebSocket: each message begins with its channel's number; in the base64 protocols with its digit, and
//! the rest is base64.
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::pipe::{Feed, Out};

/// The largest message a client may send.
const MAX_MESSAGE: usize = 4 << 20;
/// First byte of the message that closes a channel (v5).
const CLOSE_CHANNEL: u8 = 255;

/// A server's connection over an upgraded one.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(socket: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(32 << 10)
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Reads messages into the feeds of their channels until the client closes.
///
/// # Errors
/// When the connection breaks or the client breaks the protocol.
pub async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut SplitStream<WebSocketStream<S>>,
    mut feeds: Vec<Option<Feed>>,
    base64: bool,
    closes: bool,
) -> io::Result<()> {
    while let Some(message) = socket.next().await {
        let mut data = match message.map_err(failed)? {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        if data.is_empty() {
            continue;
        }
        let first = data.split_to(1)[0];
        if closes && first == CLOSE_CHANNEL {
            let channel = data.first().map(|c| usize::from(*c)).filter(|_| data.len() == 1);
            let channel = channel.filter(|c| *c < feeds.len());
            let channel =
                channel.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad close signal"))?;
            if let Some(feed) = feeds[channel].take() {
                feed.finish();
            }
            continue;
        }
        let channel = if base64 { first.wrapping_sub(b'0') } else { first };
        let Some(Some(feed)) = feeds.get(usize::from(channel)) else { continue };
        if base64 {
            let plain = STANDARD.decode(&data);
            data = plain.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?.into();
        }
        while !data.is_empty() {
            feed.push(data.split_to(data.len().min(32 << 10))).await;
        }
    }
    Ok(())
}

/// Writes what goes out until every sender is gone, then closes.
///
/// # Errors
/// When the connection breaks.
pub async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: SplitSink<WebSocketStream<S>, Message>,
    mut out: mpsc::Receiver<Out>,
    base64: bool,
) -> io::Result<()> {
    while let Some(item) = out.recv().await {
        // There is no half-close from server to client in any version.
        let Out::Data { id, piece } = item else { continue };
        let channel = id as u8;
        let message = if base64 {
            Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(&piece)))
        } else {
            let mut data = BytesMut::with_capacity(piece.len() + 1);
            data.put_u8(channel);
            data.extend_from_slice(&piece);
            Message::Binary(data.freeze())
        };
        socket.send(message).await.map_err(failed)?;
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    match socket.send(Message::Close(Some(close))).await {
        Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Carries the bytes of another protocol in binary messages, both ways, until either side ends.
///
/// # Errors
/// When either connection breaks.
pub async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    inner: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut sink, mut messages) = socket.split();
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    let inbound = async {
        while let Some(message) = messages.next().await {
            match message.map_err(failed)? {
                Message::Binary(data) => to_inner.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_inner.shutdown().await
    };
    let outbound = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(32 << 10);
            if from_inner.read_buf(&mut buffer).await? == 0 {
                break;
            }
            sink.send(Message::Binary(buffer.split().freeze())).await.map_err(failed)?;
        }
        sink.close().await.map_err(failed)
    };
    tokio::try_join!(inbound, outbound).map(|_| ())
}
