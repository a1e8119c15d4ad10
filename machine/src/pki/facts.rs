use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Leaf, PkiError, RENEW_BEFORE, Usage};

/// What a certificate says, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub leaf: Leaf,
    /// Every organization; `leaf` has the first.
    pub organizations: Vec<String>,
    pub is_ca: bool,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Facts {
    /// Whether the certificate should be replaced: too old, or not yet valid.
    #[must_use]
    pub fn due(&self, now: SystemTime) -> bool {
        self.not_after <= now + RENEW_BEFORE || self.not_before > now
    }
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// When there is none or it is no X.509 certificate.
pub fn facts(certificate_pem: &str) -> Result<Facts, PkiError> {
    let der = first_certificate(certificate_pem)?;
    let certificate = decode(&der)?;
    let organizations = text(certificate.subject().iter_organization());
    let mut leaf = Leaf {
        common_name: text(certificate.subject().iter_common_name()).into_iter().next().unwrap_or_default(),
        organization: organizations.first().cloned(),
        ..Leaf::default()
    };
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => leaf.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => leaf.addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage() {
        leaf.usage = match (usage.value.server_auth, usage.value.client_auth) {
            (true, true) => Usage::ServerAndClient,
            (true, false) => Usage::Server,
            _ => Usage::Client,
        };
    }
    Ok(Facts {
        leaf,
        organizations,
        is_ca: certificate.is_ca(),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(certificate.validity().not_after.timestamp()),
    })
}

/// Whether `certificate_pem` was signed by the CA `ca_pem`.
///
/// # Errors
/// When one of them is no certificate.
pub fn signed_by(certificate_pem: &str, ca_pem: &str) -> Result<bool, PkiError> {
    let (leaf, ca) = (first_certificate(certificate_pem)?, first_certificate(ca_pem)?);
    let (leaf, ca) = (decode(&leaf)?, decode(&ca)?);
    Ok(leaf.verify_signature(Some(ca.public_key())).is_ok())
}

pub(super) fn first_certificate(pem: &str) -> Result<Vec<u8>, PkiError> {
    let parse =
        |source: Box<dyn std::error::Error + Send + Sync>| PkiError::Parse { what: "a certificate", source };
    for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|e| parse(Box::new(e)))?;
        if block.label == "CERTIFICATE" {
            return Ok(block.contents);
        }
    }
    Err(parse("no CERTIFICATE block".into()))
}

pub(super) fn decode(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|e| PkiError::Parse { what: "a certificate", source: e.to_string().into() })
}

fn text<'a>(values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    values.filter_map(|value| value.as_str().ok().map(str::to_owned)).collect()
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn time(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds.max(0).unsigned_abs())
}

/// Whether a private key (PEM) belongs to a certificate (PEM).
#[must_use]
pub fn is_key_of(key_pem: &str, certificate_pem: &str) -> bool {
    use rcgen::PublicKeyData;
    let Ok(der) = first_certificate(certificate_pem) else { return false };
    let (Ok(certificate), Ok(key)) = (decode(&der), rcgen::KeyPair::from_pem(key_pem)) else { return false };
    certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
}
