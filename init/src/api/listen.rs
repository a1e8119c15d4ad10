//! TLS connections of known clients.
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::Stream;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::identity::Identity;

/// The most handshakes at once; further clients wait in the kernel's queue.
const HANDSHAKES: usize = 32;
/// The most connections at once.
const CONNECTIONS: usize = 128;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// The machine API's socket.
pub struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    /// Binds the port on every address and reads certificates from `pki`.
    ///
    /// # Errors
    /// Names the file or the port.
    pub async fn bind(port: u16, pki: &Path) -> Result<Self> {
        let config = config(pki).context("read the machine API's certificates")?;
        let socket = match TcpListener::bind(("::", port)).await {
            Ok(socket) => socket,
            // A kernel without IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", port))
                .await
                .with_context(|| format!("listen on port {port}"))?,
        };
        Ok(Self { socket, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Connections whose handshake succeeded.
    pub fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        let (ready, connections) = mpsc::channel(8);
        tokio::spawn(async move {
            let (handshakes, open) =
                (Arc::new(Semaphore::new(HANDSHAKES)), Arc::new(Semaphore::new(CONNECTIONS)));
            loop {
                let Ok(slot) = open.clone().acquire_owned().await else { return };
                let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
                let Ok((stream, peer)) = self.socket.accept().await else {
                    // Out of descriptors, or the client went away.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (acceptor, ready) = (self.acceptor.clone(), ready.clone());
                tokio::spawn(async move {
                    let result = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(acceptor, stream)).await;
                    drop(turn);
                    match result {
                        Ok(Ok((stream, identity))) => {
                            let _ = ready.send(Ok(Connection { stream, identity, _slot: slot })).await;
                        }
                        Ok(Err(error)) => {
                            tracing::info!(target: "audit", %peer, error = format!("{error:#}"), "refused a connection")
                        }
                        Err(_) => tracing::info!(target: "audit", %peer, "no TLS handshake within 10 s"),
                    }
                });
            }
        });
        ReceiverStream::new(connections)
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Identity)> {
    let peer = stream.peer_addr()?.to_string();
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no client certificate")?;
    let identity = Identity::from_certificate(certificate, peer)?;
    Ok((stream, identity))
}

fn config(pki: &Path) -> Result<ServerConfig> {
    let path = |name: &str| pki.join(name);
    let read = |name: &str| format!("read {}", path(name).display());
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(path(super::pki::CA)).with_context(|| read(super::pki::CA))?
    {
        roots.add(certificate.with_context(|| read(super::pki::CA))?).context("use the machine CA")?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path(super::pki::CERTIFICATE))
        .with_context(|| read(super::pki::CERTIFICATE))?
        .collect();
    let key = PrivateKeyDer::from_pem_file(path(super::pki::KEY)).with_context(|| read(super::pki::KEY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context("make the verifier of client certificates")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("use TLS 1.3")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.context("read the serving certificate")?, key)
        .context("use the serving certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A connection of a known client.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    identity: Identity,
    _slot: tokio::sync::OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Identity;

    fn connect_info(&self) -> Identity {
        self.identity.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
