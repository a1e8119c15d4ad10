//! The listener: from an HTTP request with a token to the streams of one exec, attach or port-forward.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use machine::cri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tonic::Status;

use super::connection::{keep_alive, linger};
use super::idle;
use super::pipe::{self, OUTGOING, Out};
use super::remote::{self, Remote, Version, Wanted};
use super::token::Tokens;
use super::{Request, StreamBackend, portforward, spdy, websocket};

/// The most connections at once.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send its request's head.
const HEAD: Duration = Duration::from_secs(30);
/// How long to wait before the listener is asked again after it has failed.
const AGAIN: Duration = Duration::from_millis(100);
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Serves streams on any number of listeners.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    backend: Arc<dyn StreamBackend>,
    tokens: Tokens,
    base: String,
    connections: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.0.base).finish_non_exhaustive()
    }
}

impl Server {
    /// A server whose URLs begin with `http://localhost`, for the unix socket.
    pub fn new(backend: Arc<dyn StreamBackend>) -> Self {
        Self::with_base(backend, "http://localhost".into())
    }

    /// A server whose URLs begin with `base`, such as `http://127.0.0.1:4321` of a loopback listener.
    pub fn with_base(backend: Arc<dyn StreamBackend>, base: String) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        Self(Arc::new(Inner { backend, tokens: Tokens::default(), base, connections }))
    }

    fn register(&self, kind: &str, request: Request) -> Result<String, Status> {
        Ok(format!("{}/{kind}/{}", self.0.base, self.0.tokens.put(request)?))
    }

    /// The URL for an exec.
    ///
    /// # Errors
    /// `InvalidArgument` for a request without a container or with streams that do not go together; `ResourceExhausted` when too many
    /// wait.
    pub fn register_exec(&self, request: cri::ExecRequest) -> Result<String, Status> {
        check(&request.container_id, request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.register("exec", Request::Exec(request))
    }

    /// The URL for an attach.
    ///
    /// # Errors
    /// As [`Server::register_exec`].
    pub fn register_attach(&self, request: cri::AttachRequest) -> Result<String, Status> {
        check(&request.container_id, request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.register("attach", Request::Attach(request))
    }

    /// The URL for a port-forward.
    ///
    /// # Errors
    /// `InvalidArgument` without a sandbox; `ResourceExhausted` when too many wait.
    pub fn register_port_forward(&self, request: cri::PortForwardRequest) -> Result<String, Status> {
        if request.pod_sandbox_id.is_empty() {
            return Err(Status::invalid_argument("missing required pod_sandbox_id"));
        }
        self.register("portforward", Request::PortForward(request))
    }

    /// Serves a unix socket for good.
    ///
    /// # Errors
    /// None yet; what a listener tells is waited out.
    pub async fn serve_unix(self, listener: UnixListener) -> io::Result<()> {
        loop {
            let slot = self.0.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    not_accepted(&error).await;
                    continue;
                }
            };
            let server = self.clone();
            tokio::spawn(async move {
                server.connection(stream, slot).await;
            });
        }
    }

    /// Serves a loopback TCP socket for good, for CRI clients that dial the URLs themselves.
    ///
    /// # Errors
    /// None yet; what a listener tells is waited out.
    pub async fn serve_tcp(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let slot = self.0.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    not_accepted(&error).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            if let Err(error) = keep_alive(&stream) {
                tracing::debug!(%error, "watch whether a streaming client is there");
            }
            let server = self.clone();
            tokio::spawn(async move {
                server.connection(stream, slot).await;
            });
        }
    }

    async fn connection<S>(&self, stream: S, slot: tokio::sync::OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let slot = Arc::new(slot);
        let service = hyper::service::service_fn(move |request| {
            let (server, slot) = (self.clone(), slot.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, slot)) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "streaming connection");
        }
    }

    /// Spends the token and upgrades, or says why not.
    fn answer(
        &self,
        request: hyper::Request<Incoming>,
        slot: Arc<tokio::sync::OwnedSemaphorePermit>,
    ) -> Response<Full<Bytes>> {
        let mut parts = request.uri().path().trim_matches('/').splitn(2, '/');
        let (kind, token) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let Some(wanted) = self.0.tokens.take(token).filter(|r| kind == kind_of(r)) else {
            return refuse(StatusCode::NOT_FOUND, "unknown or spent token; ask the runtime for a new URL");
        };
        let (upgrade, response) = match negotiate(request.headers(), &wanted) {
            Ok(agreed) => agreed,
            Err(response) => return response,
        };
        let server = self.clone();
        tokio::spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => server.upgraded(upgraded, wanted, upgrade).await,
                Err(error) => tracing::debug!(%error, "streaming upgrade"),
            }
            drop(slot);
        });
        response
    }

    async fn upgraded(&self, upgraded: Upgraded, request: Request, upgrade: Upgrade) {
        session(&*self.0.backend, &request, upgrade, TokioIo::new(upgraded)).await;
    }
}

/// Serves one upgraded connection until its end.
async fn session<S>(backend: &dyn StreamBackend, request: &Request, upgrade: Upgrade, socket: S)
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
            tracing::info!(kind = kind_of(request), "a streaming client was silent for too long; its streams end");
        }
    }
}

/// A client that has gone again, or that no descriptor is left for now, must not end the listener.
async fn not_accepted(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "accept a streaming client; trying on");
        tokio::time::sleep(AGAIN).await;
    }
}

fn check(container: &str, tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<(), Status> {
    if container.is_empty() {
        return Err(Status::invalid_argument("missing required container_id"));
    }
    if tty && stderr {
        return Err(Status::invalid_argument(
            "tty and stderr cannot both be true: a terminal has one output",
        ));
    }
    if !stdin && !stdout && !stderr {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    Ok(())
}

fn kind_of(request: &Request) -> &'static str {
    match request {
        Request::Exec(_) => "exec",
        Request::Attach(_) => "attach",
        Request::PortForward(_) => "portforward",
    }
}

/// What client and server agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    Spdy(Version),
    /// Channels over WebSocket.
    Channels {
        version: Version,
        base64: bool,
    },
    /// SPDY in WebSocket.
    Tunnel,
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *response.status_mut() = status;
    response
}

fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

type Reply = Response<Full<Bytes>>;

#[expect(clippy::result_large_err, reason = "the error is the reply that goes out")]
fn negotiate(headers: &HeaderMap, request: &Request) -> Result<(Upgrade, Reply), Reply> {
    let connection = listed(headers, &CONNECTION).iter().any(|v| v.eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let port_forward = matches!(request, Request::PortForward(_));
    if connection && upgrade.eq_ignore_ascii_case("websocket") {
        let key = headers
            .get(SEC_WEBSOCKET_KEY)
            .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "no WebSocket key"))?;
        let asked = listed(headers, &SEC_WEBSOCKET_PROTOCOL);
        let chosen = if asked.is_empty() {
            Some(("", Upgrade::Channels { version: Version::V1, base64: false }))
        } else {
            asked.iter().find_map(|p| Some((*p, channel_protocol(p, port_forward)?)))
        };
        let why = "none of the WebSocket subprotocols is supported";
        let (protocol, upgrade) = chosen.ok_or_else(|| refuse(StatusCode::FORBIDDEN, why))?;
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
        if !protocol.is_empty() {
            response = response.header(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        return Ok((upgrade, built(response)));
    }
    if !connection || !upgrade.to_ascii_lowercase().contains("spdy/3.1") {
        return Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: this takes SPDY/3.1 or websocket"));
    }
    let asked = listed(headers, &STREAM_PROTOCOL);
    let supported: &[(&str, Version)] =
        if port_forward { &PORT_FORWARD_PROTOCOLS } else { &REMOTE_PROTOCOLS };
    let chosen = asked.iter().find_map(|p| supported.iter().find(|(name, _)| name == p));
    let Some((protocol, version)) = chosen else {
        let mut response = refuse(StatusCode::FORBIDDEN, "unable to upgrade: unable to negotiate protocol");
        for (name, _) in supported {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, http::HeaderValue::from_static(name));
        }
        return Err(response);
    };
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header(STREAM_PROTOCOL, *protocol);
    Ok((Upgrade::Spdy(*version), built(response)))
}

const PORT_FORWARD_PROTOCOLS: [(&str, Version); 1] = [("portforward.k8s.io", Version::V1)];
const REMOTE_PROTOCOLS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

fn channel_protocol(name: &str, port_forward: bool) -> Option<Upgrade> {
    let (version, base64) = match name {
        "SPDY/3.1+portforward.k8s.io" if port_forward => return Some(Upgrade::Tunnel),
        "v4.channel.k8s.io" => (Version::V4, false),
        "v4.base64.channel.k8s.io" => (Version::V4, true),
        "v5.channel.k8s.io" if !port_forward => (Version::V5, false),
        "channel.k8s.io" if !port_forward => (Version::V1, false),
        "base64.channel.k8s.io" if !port_forward => (Version::V1, true),
        _ => return None,
    };
    Some(Upgrade::Channels { version, base64 })
}

fn built(response: http::response::Builder) -> Response<Full<Bytes>> {
    let failed = |_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made");
    response.body(Full::new(Bytes::new())).unwrap_or_else(failed)
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
    let mut feeds = Vec::new();
    {
        let (serve, feeds): (futures::future::BoxFuture<'_, ()>, _) = match (request, Wanted::of(request)) {
            (Request::PortForward(r), _) => {
                let mut running = futures::stream::FuturesUnordered::new();
                // Channels 2n and 2n+1 are the n-th port's data and error.
                for (index, port) in
                    r.port.iter().filter_map(|p| u16::try_from(*p).ok()).enumerate().take(100)
                {
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
                        portforward::one(backend, &r.pod_sandbox_id, port, data, error).await;
                    });
                }
                (Box::pin(async move { while running.next().await.is_some() {} }), feeds)
            }
            (_, Some(wanted)) => {
                let (stdin_feed, stdin) = pipe::reader(None);
                let (resize_feed, resize) = pipe::reader(None);
                feeds.extend([
                    wanted.stdin.then_some(stdin_feed),
                    None,
                    None,
                    None,
                    wanted.tty.then_some(resize_feed),
                ]);
                // Tells the client that the connection stands.
                let first = if wanted.stdout {
                    1
                } else if wanted.stderr {
                    2
                } else {
                    3
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
            (_, None) => return,
        };
        drop(out);
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

#[cfg(test)]
mod tests;
