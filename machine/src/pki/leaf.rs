use std::time::SystemTime;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};

use super::{Issued, LEAF_LIFETIME, Leaf, PkiError, SERVING_LIFETIME, Usage, validity};
use crate::authority::CertificateAuthority;

/// Issues a leaf certificate with a fresh key.
///
/// # Errors
/// When the CA has no key here or is not PEM, or a name cannot stand in a certificate.
pub fn issue(ca: &CertificateAuthority, leaf: &Leaf, now: SystemTime) -> Result<Issued, PkiError> {
    let sign = |source| PkiError::Sign { name: leaf.common_name.clone(), source };
    let issuer = issuer(ca, leaf)?;
    let key = KeyPair::generate().map_err(sign)?;
    let mut params = params(leaf)?;
    validity(&mut params, now, LEAF_LIFETIME);
    let certificate = params.signed_by(&key, &issuer).map_err(sign)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Signs a serving certificate for somebody else's key, an uncompressed ECDSA P-256 point. Whatever `leaf` says of organization and
/// usage, it is for serving only, and valid for [`SERVING_LIFETIME`].
///
/// # Errors
/// As [`issue`]; when the key is no such point.
pub fn sign_serving(
    ca: &CertificateAuthority,
    leaf: &Leaf,
    public_key: &[u8],
    now: SystemTime,
) -> Result<String, PkiError> {
    let leaf = Leaf { organization: None, usage: Usage::Server, ..leaf.clone() };
    let point = Point::new(public_key)?;
    let issuer = issuer(ca, &leaf)?;
    let mut params = params(&leaf)?;
    validity(&mut params, now, SERVING_LIFETIME);
    let certificate = params
        .signed_by(&point, &issuer)
        .map_err(|source| PkiError::Sign { name: leaf.common_name.clone(), source })?;
    Ok(certificate.pem())
}

fn issuer<'a>(ca: &'a CertificateAuthority, leaf: &Leaf) -> Result<Issuer<'a, KeyPair>, PkiError> {
    let parse = |what| move |source| PkiError::Parse { what, source: Box::new(source) };
    let key = ca.key.as_deref().ok_or_else(|| PkiError::NoKey(leaf.common_name.clone()))?;
    let key = KeyPair::from_pem(key).map_err(parse("the CA's key"))?;
    Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(parse("the CA's certificate"))
}

/// Everything of a certificate but its time.
pub(super) fn params(leaf: &Leaf) -> Result<CertificateParams, PkiError> {
    let sign = |source| PkiError::Sign { name: leaf.common_name.clone(), source };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = &leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    for name in &leaf.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(sign)?));
    }
    params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if leaf.usage.server() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.usage.client() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A public key whose owner showed that they have the private one.
struct Point<'a>(&'a [u8]);

impl<'a> Point<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, PkiError> {
        // SEC 1 §2.3.3: 4, then both coordinates.
        if bytes.len() == 65 && bytes[0] == 4 {
            Ok(Self(bytes))
        } else {
            Err(PkiError::Request("its key is no uncompressed ECDSA P-256 point"))
        }
    }
}

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
