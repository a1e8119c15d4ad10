//! The listener: from an HTTP request with a token to the streams of one exec, attach or port-forward.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use machine::cri;
use node_kit::accept;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::connection::keep_alive;
use super::error::RegisterError;
use super::negotiate::{Upgrade, negotiate, refuse};
use super::session::session;
use super::token::Tokens;
use super::{Request, StreamBackend};

/// The most connections at once.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send its request's head.
const HEAD: Duration = Duration::from_secs(30);

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

    fn register(&self, kind: &str, request: Request) -> Result<String, RegisterError> {
        Ok(format!("{}/{kind}/{}", self.0.base, self.0.tokens.put(request)?))
    }

    /// The URL for an exec.
    ///
    /// # Errors
    /// For a request without a container or with streams that do not go together; when too many wait.
    pub fn register_exec(&self, request: cri::ExecRequest) -> Result<String, RegisterError> {
        check(&request.container_id, request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.register("exec", Request::Exec(request))
    }

    /// The URL for an attach.
    ///
    /// # Errors
    /// As [`Server::register_exec`].
    pub fn register_attach(&self, request: cri::AttachRequest) -> Result<String, RegisterError> {
        check(&request.container_id, request.tty, [request.stdin, request.stdout, request.stderr])?;
        self.register("attach", Request::Attach(request))
    }

    /// The URL for a port-forward.
    ///
    /// # Errors
    /// Without a sandbox; when too many wait.
    pub fn register_port_forward(&self, request: cri::PortForwardRequest) -> Result<String, RegisterError> {
        if request.pod_sandbox_id.is_empty() {
            return Err(RegisterError::Invalid("missing required pod_sandbox_id"));
        }
        self.register("portforward", Request::PortForward(request))
    }

    /// Serves a unix socket for good; those whom `admits` turns away are hung up on unread.
    ///
    /// # Errors
    /// None yet; what a listener tells is waited out.
    pub async fn serve_unix(self, listener: UnixListener, admits: fn(&UnixStream) -> bool) -> io::Result<()> {
        loop {
            let slot = self.0.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = accept::unix(&listener).await;
            if !admits(&stream) {
                continue;
            }
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
            let (stream, _) = accept::tcp(&listener).await;
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
        let Some(wanted) = self.0.tokens.take(token).filter(|r| kind == r.kind()) else {
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

fn check(container: &str, tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<(), RegisterError> {
    if container.is_empty() {
        return Err(RegisterError::Invalid("missing required container_id"));
    }
    if tty && stderr {
        return Err(RegisterError::Invalid("tty and stderr cannot both be true: a terminal has one output"));
    }
    if !stdin && !stdout && !stderr {
        return Err(RegisterError::Invalid("one of stdin, stdout, or stderr must be set"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
