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
    pub role: Role,
    pub peer: String,
}

impl Identity {
    /// Reads common name and role (`O=pintle:admin` or `O=pintle:reader`) of a client certificate. A machine's serving certificate is of
    /// the same CA, so the certificate must say itself that it is a client's.
    ///
    /// # Errors
    /// When it is no client certificate, or names nobody or no role.
    pub fn from_certificate(der: &[u8], peer: String) -> Result<Self> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            bail!("the client's certificate is no X.509")
        };
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        if name.is_empty() {
            bail!("the client's certificate has no common name");
        }
        let usage = certificate.extended_key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.client_auth) {
            bail!("the certificate of {name:?} is not for clients (no extended key usage clientAuth)");
        }
        let role = subject.iter_organization().filter_map(|value| role(value.as_str().ok()?)).max();
        let Some(role) = role else {
            bail!("the client certificate of {name:?} names no role (O=pintle:admin or O=pintle:reader)");
        };
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
    let allowed = identity.is_some_and(|identity| identity.role >= needed);
    let (name, peer) = identity.map_or(("", ""), |identity| (&*identity.name, &*identity.peer));
    let role = identity.map(|identity| identity.role);
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

    use std::time::SystemTime;

    use machine::config::CertificateAuthority;
    use machine::pki::{self, Leaf, Usage};

    fn request(role: Role) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(Identity { name: "ann".into(), role, peer: "192.0.2.1".into() });
        request
    }

    fn identify(ca: &CertificateAuthority, organization: Option<&str>, usage: Usage) -> Result<Identity> {
        let leaf = Leaf {
            common_name: "ann".into(),
            organization: organization.map(Into::into),
            usage,
            ..Leaf::default()
        };
        let issued = pki::issue(ca, &leaf, SystemTime::now())?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes())?;
        Identity::from_certificate(&pem.contents, String::new())
    }

    #[test]
    fn a_reader_looks_and_an_admin_acts() {
        assert_eq!(authorize(&request(Role::Reader), "Version", Role::Reader, "").unwrap(), "ann");
        assert!(authorize(&request(Role::Reader), "Reboot", Role::Admin, "").is_err());
        assert!(authorize(&request(Role::Admin), "Version", Role::Reader, "").is_ok());
        assert!(authorize(&Request::new(()), "Version", Role::Reader, "").is_err());
    }

    #[test]
    fn only_a_client_certificate_with_a_role_of_ours_is_somebody() {
        let ca = pki::new_ca("pintle", SystemTime::now()).unwrap();
        let admin = identify(&ca, Some("pintle:admin"), Usage::Client).unwrap();
        assert_eq!((&*admin.name, admin.role), ("ann", Role::Admin));
        for (organization, usage) in [
            (Some("pintle:admin"), Usage::Server),
            (None, Usage::Client),
            (Some("system:masters"), Usage::Client),
        ] {
            assert!(identify(&ca, organization, usage).is_err(), "{organization:?} {usage:?}");
        }
        assert!(Identity::from_certificate(b"x", String::new()).is_err());
    }
}
