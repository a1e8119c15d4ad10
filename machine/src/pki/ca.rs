use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::{CA_LIFETIME, PkiError, validity};
use crate::authority::{CertificateAuthority, KeyPair as Pair};

/// Makes a self-signed CA with its key.
///
/// # Errors
/// When the random source fails or the name cannot stand in a certificate.
pub fn new_ca(common_name: &str, now: SystemTime) -> Result<CertificateAuthority, PkiError> {
    let sign = |source| PkiError::Sign { name: common_name.into(), source };
    let key = KeyPair::generate().map_err(sign)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, CA_LIFETIME);
    let certificate = params.self_signed(&key).map_err(sign)?;
    Ok(CertificateAuthority { certificate: certificate.pem(), key: Some(key.serialize_pem()) })
}

/// Makes a bare key pair, such as the one that signs service account tokens (ES256).
///
/// # Errors
/// When the random source fails.
pub fn new_key_pair() -> Result<Pair, PkiError> {
    let key = KeyPair::generate().map_err(|_| PkiError::Random)?;
    Ok(Pair { public: key.public_key_pem(), private: key.serialize_pem() })
}
