//! The certificate of port 10250: issued by the cluster when there is one, self-signed until then.
use std::sync::{Arc, RwLock};

use anyhow::Context as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Hands the current certificate to each TLS handshake.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// A self-signed certificate for `names` (DNS names and addresses).
    ///
    /// # Errors
    /// When no key can be made, or a name is none.
    pub fn self_signed(names: Vec<String>) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate().context("make a serving key")?;
        let params = rcgen::CertificateParams::new(names).context("name a serving certificate")?;
        let certificate = params.self_signed(&key).context("sign a serving certificate")?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = certified_key(vec![certificate.der().clone()], key)?;
        Ok(Self { current: RwLock::new(Arc::new(certified)) })
    }

    /// From now on, handshakes get this certificate.
    pub fn replace(&self, certified: CertifiedKey) {
        if let Ok(mut current) = self.current.write() {
            *current = Arc::new(certified);
        }
    }
}

/// A chain and its key as rustls signs with them.
///
/// # Errors
/// When the key is of no kind that ring signs with.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<CertifiedKey> {
    let key = rustls::crypto::ring::sign::any_supported_type(&key).context("load a serving key")?;
    Ok(CertifiedKey::new(chain, key))
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().ok().map(|current| current.clone())
    }
}
