//! Port 10250: what the API server, metrics collectors and people with the right ask of this node.
//!
//! A connection is served by one task: TLS (a client certificate is asked for and verified against the client CA, or a bearer token
//! comes with each request), then per request authentication, authorization and only then the work. Connections, header sizes and
//! caches are bounded.
mod access;
mod backend;
mod container_logs;
mod handle;
mod log_line;
mod logs;
mod node;
mod query;
mod reply;
mod route;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use backend::{Backend, ServedPod, User};
pub use node::run;
pub use route::{Needed, PodPath, Route, needed, route};
pub use tls::{ServerTls, TlsError};

use access::Access;

/// The kubelet's port.
pub const PORT: u16 = 10250;
/// Where the node itself may ask for `/healthz` without TLS.
pub const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10248);

const MAX_CONNECTIONS: usize = 256;
const MAX_HEALTHZ_CONNECTIONS: usize = 16;
const MAX_HEADERS: usize = 64 << 10;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// What every connection needs.
pub(crate) struct Shared {
    backend: Arc<dyn Backend>,
    access: Access,
    stream_socket: String,
}

/// Serves TLS connections for ever; `stream_socket` is where the runtime serves streams.
///
/// # Errors
/// When the listener breaks; a failed connection ends alone.
pub async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    backend: Arc<dyn Backend>,
    stream_socket: impl Into<String>,
) -> std::io::Result<()> {
    let shared = Arc::new(Shared { backend, access: Access::default(), stream_socket: stream_socket.into() });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // No place: the kernel's queue waits instead of our memory.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let stream = accept(&listener).await?;
        let (shared, acceptor) = (shared.clone(), tls.acceptor());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = certificate.map(|certificate| certificate.as_ref().to_vec());
                connection(stream, shared, certificate).await;
            }
            drop(place);
        });
    }
}

/// Serves `/healthz` in plain HTTP for ever; nothing else.
///
/// # Errors
/// When the listener breaks.
pub async fn serve_healthz(listener: TcpListener) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_HEALTHZ_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let stream = accept(&listener).await?;
        tokio::spawn(async move {
            let service = service_fn(|request| async move {
                Ok::<_, std::convert::Infallible>(handle::healthz_only(&request))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .max_buf_size(8 << 10)
                .serve_connection(TokioIo::new(stream), service);
            let _ = served.await;
            drop(place);
        });
    }
}

async fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Exec and logs are many small writes that somebody waits for.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            // The client has gone again (accept(2)).
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                tracing::warn!("accept: {error}; trying again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn connection<S>(stream: S, shared: Arc<Shared>, certificate: Option<Vec<u8>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let certificate: Option<Arc<[u8]>> = certificate.map(Into::into);
    let service = service_fn(move |request| {
        let (shared, certificate) = (shared.clone(), certificate.clone());
        async move {
            let answer = handle::handle(&shared, certificate.as_deref(), request).await;
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!("connection: {error}");
    }
}

/// The pod that a path names; with a uid, only that one.
fn find(backend: &dyn Backend, path: &PodPath) -> Option<ServedPod> {
    backend.pods().into_iter().find(|served| {
        let metadata = &served.pod.metadata;
        metadata.name.as_deref() == Some(path.name.as_str())
            && metadata.namespace.as_deref() == Some(path.namespace.as_str())
            && path.uid.as_ref().is_none_or(|uid| metadata.uid.as_ref() == Some(uid))
    })
}

#[cfg(test)]
mod tests;
