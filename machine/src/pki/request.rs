use std::net::IpAddr;

use rcgen::KeyPair;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

use super::facts::address;
use super::leaf::params;
use super::{Leaf, PkiError};

/// The largest request that is read, in bytes.
const LARGEST: usize = 16 << 10;

/// What a certificate signing request asks for; its sender has the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// An uncompressed ECDSA P-256 point.
    pub public_key: Vec<u8>,
}

/// Makes a key (PEM) and a signing request (PKCS#10, DER) with it for what `leaf` names.
///
/// # Errors
/// When the random source fails or a name cannot stand in a certificate.
pub fn new_request(leaf: &Leaf) -> Result<(String, Vec<u8>), PkiError> {
    let sign = |source| PkiError::Sign { name: leaf.common_name.clone(), source };
    let key = KeyPair::generate().map_err(sign)?;
    let mut params = params(leaf)?;
    // rcgen refuses it in a request; the issuer adds it.
    params.use_authority_key_identifier_extension = false;
    let request = params.serialize_request(&key).map_err(sign)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// Reads a signing request of a stranger and checks that they have its key.
///
/// # Errors
/// When it is too large, malformed, for another kind of key, or not signed by its own key.
pub fn read_request(der: &[u8]) -> Result<Request, PkiError> {
    if der.len() > LARGEST {
        return Err(PkiError::Request("larger than 16 KiB"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| PkiError::Request("no PKCS#10"))?;
    if !rest.is_empty() {
        return Err(PkiError::Request("something follows it"));
    }
    let info = &request.certification_request_info;
    request.verify_signature().map_err(|_| PkiError::Request("its key did not sign it"))?;
    let public_key = info.subject_pki.subject_public_key.data.to_vec();
    if public_key.len() != 65 || public_key[0] != 4 {
        return Err(PkiError::Request("its key is not of ECDSA P-256"));
    }
    let name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    let mut read = Request {
        common_name: name.unwrap_or_default().to_owned(),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        public_key,
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => read.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => read
                    .addresses
                    .push(address(bytes).ok_or(PkiError::Request("an address of a wrong length"))?),
                _ => return Err(PkiError::Request("a name that is neither DNS name nor address")),
            }
        }
    }
    Ok(read)
}
