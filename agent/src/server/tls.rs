use std::sync::Arc;

use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("client CA: {0}")]
    ClientCa(String),
    #[error("TLS settings: {0}")]
    Settings(#[from] rustls::Error),
}

/// The server's side of TLS, following the client CA. The certificate is asked of `resolver` at each handshake, so it is replaced
/// without a restart.
#[derive(Debug, Clone)]
pub struct ServerTls {
    current: watch::Receiver<Arc<ServerConfig>>,
}

impl ServerTls {
    /// Follows whatever configuration `current` holds; see [`ServerTls::config`].
    #[must_use]
    pub fn new(current: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self { current }
    }

    /// One configuration: clients may show a certificate of `client_ca` (PEM; empty: of nobody), and without one need a
    /// token.
    ///
    /// # Errors
    /// When the PEM holds no usable CA.
    pub fn config(
        resolver: Arc<dyn ResolvesServerCert>,
        client_ca: &str,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(client_ca.as_bytes()) {
            let certificate = certificate.map_err(|error| TlsError::ClientCa(error.to_string()))?;
            roots.add(certificate).map_err(|error| TlsError::ClientCa(error.to_string()))?;
        }
        let verifier = if roots.is_empty() {
            WebPkiClientVerifier::no_client_auth()
        } else {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::ClientCa(error.to_string()))?
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        // Streams upgrade an HTTP/1.1 connection; HTTP/2 has no such thing.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Resumption would outlive a change of the client CA.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.borrow().clone())
    }
}
