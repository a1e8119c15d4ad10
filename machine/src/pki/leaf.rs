use std::time::SystemTime;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::{Issued, LEAF_LIFETIME, Leaf, PkiError, validity};
use crate::config::CertificateAuthority;

/// Issues a leaf certificate with a fresh key.
///
/// # Errors
/// When the CA has no key here or is not PEM, or a name cannot stand in a certificate.
pub fn issue(ca: &CertificateAuthority, leaf: &Leaf, now: SystemTime) -> Result<Issued, PkiError> {
    let parse = |what| move |source| PkiError::Parse { what, source: Box::new(source) };
    let sign = |source| PkiError::Sign { name: leaf.common_name.clone(), source };
    let ca_key = ca.key.as_deref().ok_or_else(|| PkiError::NoKey(leaf.common_name.clone()))?;
    let ca_key = KeyPair::from_pem(ca_key).map_err(parse("the CA's key"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(parse("the CA's certificate"))?;

    let key = KeyPair::generate().map_err(sign)?;
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
    validity(&mut params, now, LEAF_LIFETIME);
    let certificate = params.signed_by(&key, &issuer).map_err(sign)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}
