//! Port 10250: what the API server, metrics collectors and people with the right ask of this node.
//!
//! A connection is served by one task: TLS (a client certificate is asked for and verified against the
//! client CA, or a bearer token comes with each request), then per request authentication, authorization
//! and only then the work. Connections, header sizes and caches are bounded; a client that does not say who
//! it is gives its place to the next one, and has none after a refusal.
mod access;
mod backend;
mod container_logs;
mod handle;
mod joined;
mod log_line;
mod logs;
mod node;
mod places;
mod query;
mod reply;
mod route;
mod stream;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub use backend::{Backend, User};
pub use node::run;
pub use route::{Needed, PodPath, Route, needed, route};
pub use tls::{ServerTls, TlsError};

use crate::pods::ServedPod;
use access::Access;
use places::{Place, Places};

/// The kubelet's port.
pub const PORT: u16 = 10250;
/// Where the node itself may ask for `/healthz` without TLS.
pub const HEALTHZ: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10248);

const MAX_HEALTHZ_CONNECTIONS: usize = 16;
/// What a request's head may have, as with the kubelet (Go's DefaultMaxHeaderBytes), and without a
/// certificate less: it is held before it is known who asks.
const MAX_HEADERS: usize = 1 << 20;
const MAX_HEADERS_OF_STRANGERS: usize = 64 << 10;
/// Exec, attach and port-forward streams, and logs that are followed, at a time.
const MAX_STREAMS: usize = 128;
const MAX_FOLLOWED: usize = 64;
/// After so long without a byte the kernel asks a client whether it is still there, every so often, and
/// gives up after so many questions; what was sent and is not acknowledged for so long ends the connection
/// too.
const KEEPALIVE_AFTER: u32 = 60;
const KEEPALIVE_EVERY: u32 = 15;
const KEEPALIVE_TIMES: u32 = 4;
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// What every connection needs.
pub(crate) struct Shared {
    backend: Arc<dyn Backend>,
    access: Access,
    stream_socket: String,
    streams: Arc<Semaphore>,
    followed: Arc<Semaphore>,
}

/// Who is at the other end of a connection.
pub(crate) struct Client {
    certificate: Option<Vec<u8>>,
    place: Place,
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
    let shared = Arc::new(Shared {
        backend,
        access: Access::default(),
        stream_socket: stream_socket.into(),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        followed: Arc::new(Semaphore::new(MAX_FOLLOWED)),
    });
    let places = Places::default();
    loop {
        let (stream, address) = accept(&listener).await;
        let place = places.enter(address);
        let (shared, acceptor) = (shared.clone(), tls.acceptor());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream));
            let handshake = tokio::select! {
                handshake = handshake => handshake,
                () = place.wanted() => return,
            };
            if let Ok(Ok(stream)) = handshake {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = certificate.map(|certificate| certificate.as_ref().to_vec());
                connection(stream, shared, Client { certificate, place }).await;
            }
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
        let (stream, _) = accept(&listener).await;
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

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    let (stream, address) = node_kit::accept::tcp(listener).await;
    // Exec and logs are many small writes that somebody waits for.
    let _ = stream.set_nodelay(true);
    if let Err(error) = notice_death(&stream) {
        tracing::debug!("keepalive of {address}: {error}");
    }
    (stream, address.ip())
}

/// A client that is switched off or cut off says nothing; its streams and logs would be kept for ever.
fn notice_death(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_AFTER)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_EVERY)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_TIMES)?;
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &unacknowledged)
}

async fn connection<S>(stream: S, shared: Arc<Shared>, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let (served_to, headers) = (client.clone(), client.certificate.is_some());
    let service = service_fn(move |request| {
        let (shared, client) = (shared.clone(), served_to.clone());
        async move {
            let answer = handle::handle(&shared, &client, request).await;
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(if headers { MAX_HEADERS } else { MAX_HEADERS_OF_STRANGERS })
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!("connection: {error}");
        },
        () = client.place.wanted() => {}
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
