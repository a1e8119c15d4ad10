//! One upgraded connection, from its first byte to its last.
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::linger;
use super::negotiate::Upgrade;
use super::pipe::{self, Feed, OUTGOING, Out};
use super::remote::{self, Remote, Version, Wanted};
use super::{Request, StreamBackend, idle, portforward, spdy, websocket};

/// The most ports that one connection of channels forwards: their numbers are single bytes, two for each.
const MAX_PORTS: usize = 100;

/// Serves one upgraded connection until its end.
pub async fn session<S>(backend: &dyn StreamBackend, request: &Request, upgrade: Upgrade, socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (socket, silence) = idle::watched(socket);
    let serving = async {
        match upgrade {
            Upgrade::Spdy(version) => spdy_session(backend, request, version, socket).await,
            Upgrade::Channels { version, base64 } => {
                websocket_session(backend, request, version, base64, socket).await;
            }
            Upgrade::Tunnel => {
                let (near, far) = tokio::io::duplex(64 << 10);
                let socket = websocket::accept(socket).await;
                let (tunnel, ()) = tokio::join!(
                    websocket::tunnel(socket, near),
                    spdy_session(backend, request, Version::V1, far)
                );
                if let Err(error) = tunnel {
                    tracing::debug!(%error, "port-forward tunnel");
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = silence.lasts() => {
            tracing::info!(kind = request.kind(), "a streaming client was silent for too long; its streams end");
        }
    }
}

async fn spdy_session<S>(backend: &dyn StreamBackend, request: &Request, version: Version, socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut read, write) = tokio::io::split(socket);
    let (out, outgoing) = mpsc::channel(OUTGOING);
    let mut writing = JoinSet::new();
    writing.spawn(spdy::write(write, outgoing));
    let (opened, mut streams) = mpsc::channel(8);
    {
        let serve = async {
            match (request, Wanted::of(request)) {
                (Request::PortForward(r), _) => portforward::serve(backend, &r.pod_sandbox_id, streams).await,
                (_, Some(wanted)) => match remote::gather(&mut streams, wanted, version).await {
                    Some(remote) => remote::serve(backend, request, remote).await,
                    None => tracing::debug!("a streaming client did not open its streams"),
                },
                (_, None) => {}
            }
        };
        tokio::select! {
            () = serve => {}
            ended = spdy::read(&mut read, out, opened) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "streaming client");
                }
            }
        }
    }
    linger(writing, read).await;
}

async fn websocket_session<S>(
    backend: &dyn StreamBackend,
    request: &Request,
    version: Version,
    base64: bool,
    socket: S,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut messages) = websocket::accept(socket).await.split();
    let (out, outgoing) = mpsc::channel(OUTGOING);
    let mut writing = JoinSet::new();
    writing.spawn(websocket::write(sink, outgoing, base64));
    {
        let (serve, feeds) = match (request, Wanted::of(request)) {
            (Request::PortForward(r), _) => forwards(backend, r, out),
            (_, Some(wanted)) => remote_over_channels(backend, request, (wanted, version), out).await,
            (_, None) => return,
        };
        tokio::select! {
            () = serve => {}
            ended = websocket::read(&mut messages, feeds, base64, version == Version::V5) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "streaming client");
                }
            }
        }
    }
    // The client answers our close; what else it still sends is nobody's.
    let _ = tokio::time::timeout(Duration::from_secs(60), writing.join_next()).await;
    writing.abort_all();
    let drain = async { while let Some(Ok(_)) = messages.next().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), drain).await;
}

/// What is served, and where the client's channels lead, each by its number.
type Channels<'a> = (BoxFuture<'a, ()>, Vec<Option<Feed>>);

/// Channels 2n and 2n+1 are the n-th port's data and error.
fn forwards<'a>(
    backend: &'a dyn StreamBackend,
    request: &'a machine::cri::PortForwardRequest,
    out: mpsc::Sender<Out>,
) -> Channels<'a> {
    let mut running = FuturesUnordered::new();
    let mut feeds = Vec::new();
    let ports = request.port.iter().filter_map(|p| u16::try_from(*p).ok());
    for (index, port) in ports.enumerate().take(MAX_PORTS) {
        let (feed, reader) = pipe::reader(None);
        let id = 2 * index as u32;
        let (data, data_end) = pipe::writer(id, &out);
        let (error, error_end) = pipe::writer(id + 1, &out);
        feeds.extend([Some(feed), None]);
        let out = out.clone();
        running.push(async move {
            for id in [id, id + 1] {
                let piece = Bytes::copy_from_slice(&port.to_le_bytes());
                let _ = out.send(Out::Data { id, piece }).await;
            }
            drop(out);
            let (data, error) = ((reader, data, data_end), (error, error_end));
            portforward::one(backend, &request.pod_sandbox_id, port, data, error).await;
        });
    }
    (Box::pin(async move { while running.next().await.is_some() {} }), feeds)
}

async fn remote_over_channels<'a>(
    backend: &'a dyn StreamBackend,
    request: &'a Request,
    (wanted, version): (Wanted, Version),
    out: mpsc::Sender<Out>,
) -> Channels<'a> {
    let (stdin_feed, stdin) = pipe::reader(None);
    let (resize_feed, resize) = pipe::reader(None);
    let feeds = vec![wanted.stdin.then_some(stdin_feed), None, None, None, wanted.tty.then_some(resize_feed)];
    // Tells the client that the connection stands.
    let first = match wanted {
        Wanted { stdout: true, .. } => 1,
        Wanted { stderr: true, .. } => 2,
        _ => 3,
    };
    let _ = out.send(Out::Data { id: first, piece: Bytes::new() }).await;
    let remote = Remote {
        stdin: wanted.stdin.then_some(stdin),
        stdout: wanted.stdout.then(|| pipe::writer(1, &out)),
        stderr: wanted.stderr.then(|| pipe::writer(2, &out)),
        error: pipe::writer(3, &out),
        resize: wanted.tty.then_some(resize),
        version,
    };
    (Box::pin(remote::serve(backend, request, remote)), feeds)
}
