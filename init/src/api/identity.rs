//! Who calls, by the client certificate.
use anyhow::{Result, bail};
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May look, at nothing secret.
    Reader,
    Admin,
}

/// A client whose certificate the machine CA signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// None: the certificate is good, but names no role, so that every call is refused.
    pub role: Option<Role>,
    pub peer: String,
}

impl Identity {
    /// Reads common name and role (`O=pintle:admin` or `O=pintle:reader`) of a certificate.
    ///
    /// # Errors
    /// When it is no certificate or names nobody.
    pub fn from_certificate(der: &[u8], peer: String) -> Result<Self> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            bail!("the client's certificate is no X.509")
        };
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            bail!("the client's certificate has no common name");
        }
        let role = subject.iter_organization().filter_map(|value| role(value.as_str().ok()?)).max();
        Ok(Self { name: name.chars().take(64).filter(|c| !c.is_control()).collect(), role, peer })
    }
}

fn role(organization: &str) -> Option<Role> {
    match organization {
        "pintle:admin" => Some(Role::Admin),
        "pintle:reader" => Some(Role::Reader),
        _ => None,
    }
}

/// Lets a call through that the caller's role allows, and writes the audit line either way.
///
/// # Errors
/// `PERMISSION_DENIED` with the role that is needed.
pub fn authorize<T>(request: &Request<T>, call: &str, needed: Role, detail: &str) -> Result<String, Status> {
    let identity = request.extensions().get::<Identity>();
    let allowed = identity.and_then(|identity| identity.role).is_some_and(|role| role >= needed);
    let (name, peer) = identity.map_or(("", ""), |identity| (&*identity.name, &*identity.peer));
    let role = identity.and_then(|identity| identity.role);
    tracing::info!(target: "audit", call, detail, client = name, ?role, peer, allowed);
    if allowed {
        return Ok(name.to_owned());
    }
    let needed = if needed == Role::Admin { "pintle:admin" } else { "pintle:reader" };
    Err(Status::permission_denied(format!("{call} needs a client certificate with O={needed}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(role: Option<Role>) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(Identity { name: "ann".into(), role, peer: "192.0.2.1".into() });
        request
    }

    #[test]
    fn a_reader_looks_and_an_admin_acts() {
        assert_eq!(authorize(&request(Some(Role::Reader)), "Version", Role::Reader, "").unwrap(), "ann");
        assert!(authorize(&request(Some(Role::Reader)), "Reboot", Role::Admin, "").is_err());
        assert!(authorize(&request(Some(Role::Admin)), "Version", Role::Reader, "").is_ok());
        assert!(authorize(&request(None), "Version", Role::Reader, "").is_err());
        assert!(authorize(&Request::new(()), "Version", Role::Reader, "").is_err());
    }

    #[test]
    fn garbage_is_nobody() {
        assert!(Identity::from_certificate(b"x", String::new()).is_err());
        assert_eq!(role("system:masters"), None);
    }
}
