//! TLS connections to the machine API's ports.
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use machine::paths::api_pki;
use node_kit::accept;
use node_kit::strangers::{Stay, Strangers};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Whom a port lets in, and how much of it.
pub struct Door<I> {
    pub port: u16,
    /// Whether clients must show a certificate of the machine CA. Without, they stay strangers for as long as they are connected.
    pub client_certificates: bool,
    /// Who a peer is, after its handshake; the certificate is the one it showed.
    pub admit: fn(Option<&CertificateDer<'_>>, SocketAddr) -> Result<I>,
    /// The most strangers at once. A newcomer takes the place of another.
    pub strangers: usize,
    /// The most strangers of one address.
    pub strangers_per_address: usize,
    /// The most connections of those who are known, at once; others are hung up on.
    pub connections: usize,
    /// A connection ends after this long; `None`: when its client leaves.
    pub lifetime: Option<Duration>,
}

/// A port of the machine API.
pub struct Listener<I> {
    socket: TcpListener,
    files: Files,
    door: Door<I>,
}

impl<I: Clone + Send + Sync + 'static> Listener<I> {
    /// Binds the port on every address and reads certificates from `pki`.
    ///
    /// # Errors
    /// Names the file or the port.
    pub async fn bind(pki: &Path, door: Door<I>) -> Result<Self> {
        let files = Files::read(pki, door.client_certificates)?;
        let socket = match TcpListener::bind(("::", door.port)).await {
            Ok(socket) => socket,
            // A kernel without IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", door.port))
                .await
                .with_context(|| format!("listen on port {}", door.port))?,
        };
        Ok(Self { socket, files, door })
    }

    /// Connections whose handshake succeeded.
    pub fn connections(mut self) -> impl Stream<Item = io::Result<Connection<I>>> {
        let (ready, connections) = mpsc::channel(8);
        tokio::spawn(async move {
            let strangers = Strangers::new(self.door.strangers, self.door.strangers_per_address);
            let open = Arc::new(Semaphore::new(self.door.connections));
            loop {
                let (stream, peer) = accept::tcp(&self.socket).await;
                let arriving = Arriving {
                    stream,
                    peer,
                    acceptor: self.files.acceptor(),
                    admit: self.door.admit,
                    stay: strangers.enter(peer.ip()),
                    known: self.door.client_certificates.then(|| open.clone()),
                    lifetime: self.door.lifetime,
                };
                let ready = ready.clone();
                tokio::spawn(async move {
                    match arriving.arrive().await {
                        Ok(connection) => drop(ready.send(Ok(connection)).await),
                        Err(error) => {
                            tracing::info!(target: "audit", %peer, error = format!("{error:#}"), "refused a connection")
                        }
                    }
                });
            }
        });
        ReceiverStream::new(connections)
    }
}

/// A client on its way through the handshake.
struct Arriving<I> {
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    admit: fn(Option<&CertificateDer<'_>>, SocketAddr) -> Result<I>,
    stay: Stay,
    /// Places of those who are known, where a certificate makes them so.
    known: Option<Arc<Semaphore>>,
    lifetime: Option<Duration>,
}

impl<I> Arriving<I> {
    async fn arrive(self) -> Result<Connection<I>> {
        let shaken = handshake(self.acceptor, self.stream, self.peer, self.admit);
        let (stream, who) = tokio::select! {
            shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, shaken) => shaken.context("no TLS handshake within 10 s")??,
            () = self.stay.leave.cancelled() => anyhow::bail!("others came while it did not say who it is"),
        };
        let lifetime = self.lifetime.map(tokio::time::sleep);
        let (held, end): (Held, Option<End>) = match self.known {
            Some(places) => {
                let place = places.try_acquire_owned().context("too many are connected already")?;
                (Held::Known(place), lifetime.map(|lifetime| Box::pin(lifetime) as End))
            }
            None => {
                let left = self.stay.leave.clone().cancelled_owned();
                let end = async move {
                    match lifetime {
                        Some(lifetime) => tokio::select! {
                            () = lifetime => {}
                            () = left => {}
                        },
                        None => left.await,
                    }
                };
                (Held::Stranger(self.stay), Some(Box::pin(end)))
            }
        };
        Ok(Connection { stream, who, end, _held: held })
    }
}

async fn handshake<I>(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    admit: fn(Option<&CertificateDer<'_>>, SocketAddr) -> Result<I>,
) -> Result<(TlsStream<TcpStream>, I)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let who = admit(stream.get_ref().1.peer_certificates().and_then(<[_]>::first), peer)?;
    Ok((stream, who))
}

/// The certificates that PID 1 left for us, read anew when it has replaced them.
struct Files {
    folder: PathBuf,
    client_certificates: bool,
    stamp: Option<(u64, i64, i64)>,
    acceptor: TlsAcceptor,
}

impl Files {
    fn read(folder: &Path, client_certificates: bool) -> Result<Self> {
        let stamp = stamp(folder);
        let config = config(folder, client_certificates).context("read the machine API's certificates")?;
        Ok(Self {
            folder: folder.into(),
            client_certificates,
            stamp,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// For the next connection. One stat(2) a connection spares a watch.
    fn acceptor(&mut self) -> TlsAcceptor {
        let now = stamp(&self.folder);
        if now != self.stamp {
            match Self::read(&self.folder, self.client_certificates) {
                Ok(new) => *self = new,
                Err(error) => tracing::warn!("{error:#}; the ones before stay in use"),
            }
        }
        self.acceptor.clone()
    }
}

/// Tells one serving certificate's file from the next.
fn stamp(folder: &Path) -> Option<(u64, i64, i64)> {
    let meta = std::fs::metadata(folder.join(api_pki::CERTIFICATE)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn config(folder: &Path, client_certificates: bool) -> Result<ServerConfig> {
    let path = |name: &str| folder.join(name);
    let read = |name: &str| format!("read {}", path(name).display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path(api_pki::CERTIFICATE))
        .with_context(|| read(api_pki::CERTIFICATE))?
        .collect();
    let key = PrivateKeyDer::from_pem_file(path(api_pki::KEY)).with_context(|| read(api_pki::KEY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("use TLS 1.3")?;
    let builder = if client_certificates {
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(path(api_pki::CA)).with_context(|| read(api_pki::CA))?
        {
            roots.add(certificate.with_context(|| read(api_pki::CA))?).context("use the machine CA")?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .context("make the verifier of client certificates")?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain.context("read the serving certificate")?, key)
        .context("use the serving certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The place that a connection has.
#[expect(dead_code, reason = "held until the connection ends")]
enum Held {
    Known(OwnedSemaphorePermit),
    Stranger(Stay),
}

/// A connection of somebody who was let in.
pub struct Connection<I> {
    stream: TlsStream<TcpStream>,
    who: I,
    /// When it ends, whatever its client does.
    end: Option<End>,
    _held: Held,
}

impl<I: Clone + Send + Sync + 'static> Connected for Connection<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.who.clone()
    }
}

impl<I: Unpin> AsyncRead for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: Unpin> AsyncWrite for Connection<I> {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::SystemTime;

    use futures::StreamExt;
    use machine::config::CertificateAuthority;
    use machine::pki::{Leaf, Usage};
    use tokio::net::TcpSocket;

    use super::*;

    /// A CA, and a folder with what the API process finds there.
    fn files() -> (tempfile::TempDir, CertificateAuthority) {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let ca = machine::pki::new_ca("pintle", now).unwrap();
        let leaf = Leaf {
            common_name: "n".into(),
            dns_names: vec!["localhost".into()],
            usage: Usage::Server,
            ..Leaf::default()
        };
        let own = machine::pki::issue(&ca, &leaf, now).unwrap();
        for (name, text) in [
            (api_pki::CA, &ca.certificate),
            (api_pki::CERTIFICATE, &own.certificate),
            (api_pki::KEY, &own.key),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        (folder, ca)
    }

    async fn connect(from: Ipv4Addr, port: u16) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap()
    }

    /// An administrator's connection, up to where both sides know each other.
    async fn administrator(
        ca: &CertificateAuthority,
        port: u16,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let leaf = Leaf {
            common_name: "ann".into(),
            organization: Some("pintle:admin".into()),
            usage: Usage::Client,
            ..Leaf::default()
        };
        let own = machine::pki::issue(ca, &leaf, SystemTime::now()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let stream = connect(Ipv4Addr::LOCALHOST, port).await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_an_administrator_out() {
        let (folder, ca) = files();
        let door = crate::door(0);
        let listener = Listener::bind(folder.path(), door).await.unwrap();
        let port = listener.socket.local_addr().unwrap().port();
        let mut connections = Box::pin(listener.connections());
        // Far fewer than the deadline of a handshake allows for.
        let patience = Duration::from_secs(5);
        // From elsewhere, and from the administrator's own address.
        for stranger in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST] {
            let mut silent = Vec::new();
            for _ in 0..200 {
                silent.push(connect(stranger, port).await);
            }
            let let_in = async { tokio::join!(administrator(&ca, port), connections.next()).1 };
            let let_in = tokio::time::timeout(patience, let_in).await;
            assert!(let_in.is_ok_and(|next| next.is_some_and(|next| next.is_ok())), "{stranger}");
        }
    }
}
