//! Where a registry's images are asked for: its mirrors in order, then itself.
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use machine::config::Registry;
use machine::pki::AnyCertificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::PullError;
use super::reach::{self, Dialer};
use crate::ShortNames;

/// One server that may have an image.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http` or `https`.
    pub tls: bool,
    /// Host and port to dial, and the `Host` header.
    pub authority: String,
    /// What stands before `/v2`.
    pub prefix: String,
    /// The registry that a mirror stands in for.
    pub namespace: Option<String>,
    /// User and password from a `Registry` document.
    pub auth: Option<(String, String)>,
    pub ca: Option<String>,
    pub insecure: bool,
}

/// The `Registry` documents.
#[derive(Debug)]
pub struct Registries {
    documents: Vec<Registry>,
    short: ShortNames,
    /// How long a connection, a handshake or the head of an answer may take, and how long a body may bring
    /// next to nothing.
    pub patience: Duration,
    pub dialer: Dialer,
    roots: OnceLock<Arc<ClientConfig>>,
}

impl Registries {
    /// With the ranges of the cluster's pods and services, which no registry sends a pull to.
    ///
    /// # Errors
    /// When there are no threads to look names up on.
    pub fn new(documents: Vec<Registry>, patience: Duration, cluster: Vec<IpNet>) -> io::Result<Self> {
        let short = documents
            .iter()
            .find_map(|d| Some(ShortNames { host: Some(d.host.clone()), prefix: d.short_names.clone()? }));
        let (short, dialer) = (short.unwrap_or_default(), Dialer::new(cluster)?);
        Ok(Self { documents, short, patience, dialer, roots: OnceLock::new() })
    }

    /// Where names without a registry belong.
    pub fn short_names(&self) -> &ShortNames {
        &self.short
    }

    fn document(&self, host: &str) -> Option<&Registry> {
        let exact = self.documents.iter().find(|d| d.host == host);
        exact.or_else(|| self.documents.iter().find(|d| d.host == "*"))
    }

    /// Whether a document names this host, as a registry or as a mirror. One for all registries names none.
    pub fn is_configured(&self, authority: &str) -> bool {
        let is_mirror = |url: &String| {
            let uri = url.parse::<http::Uri>().ok();
            uri.is_some_and(|uri| uri.authority().is_some_and(|mirror| mirror == authority))
        };
        self.documents.iter().any(|d| d.host == authority || d.mirrors.iter().any(is_mirror))
    }

    /// The endpoints for a registry's host, in the order in which to try them.
    ///
    /// # Errors
    /// When a mirror's URL is none, or the host is the node itself and no document names it.
    pub fn endpoints(&self, host: &str) -> Result<Vec<Endpoint>, PullError> {
        if let Some(what) = reach::refused_name(host_of(host))
            && !self.is_configured(host)
        {
            return Err(PullError::Refused { server: host.into(), what: what.into() });
        }
        let document = self.document(host);
        let mut endpoints = Vec::new();
        for mirror in document.iter().flat_map(|d| &d.mirrors) {
            endpoints.push(self.mirror(mirror, host)?);
        }
        endpoints.push(Endpoint {
            tls: !document.is_some_and(|d| d.plain_http),
            authority: host.into(),
            prefix: String::new(),
            namespace: None,
            auth: document.and_then(|d| d.auth.as_ref()).map(|a| (a.username.clone(), a.password.clone())),
            ca: document.and_then(|d| d.ca.clone()),
            insecure: document.is_some_and(|d| d.insecure_skip_verify),
        });
        Ok(endpoints)
    }

    fn mirror(&self, url: &str, host: &str) -> Result<Endpoint, PullError> {
        let bad = || PullError::Malformed(format!("mirror {url:?} of registry {host} is no http(s) URL"));
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?.to_string();
        // A mirror has its own credentials and certificates; those of the registry it stands in for are not
        // for it.
        let own = self.documents.iter().find(|d| d.host == authority);
        Ok(Endpoint {
            tls,
            prefix: uri.path().trim_end_matches('/').trim_end_matches("/v2").to_owned(),
            namespace: Some(host.into()),
            auth: own.and_then(|d| d.auth.as_ref()).map(|a| (a.username.clone(), a.password.clone())),
            ca: own.or_else(|| self.document(host)).and_then(|d| d.ca.clone()),
            insecure: own.or_else(|| self.document(host)).is_some_and(|d| d.insecure_skip_verify),
            authority,
        })
    }

    /// TLS settings for an endpoint, or for a host that it redirects to.
    ///
    /// # Errors
    /// When the configured CA is no PEM.
    pub fn tls(&self, endpoint: &Endpoint, authority: &str) -> Result<Arc<ClientConfig>, PullError> {
        if endpoint.insecure && authority == endpoint.authority {
            let config =
                builder()?.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()));
            return Ok(Arc::new(config.with_no_client_auth()));
        }
        if endpoint.ca.is_none()
            && let Some(config) = self.roots.get()
        {
            return Ok(config.clone());
        }
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(pem) = &endpoint.ca {
            let bad =
                |what: String| PullError::Malformed(format!("ca of registry {}: {what}", endpoint.authority));
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|e| bad(e.to_string()))?;
                roots.add(certificate).map_err(|e| bad(e.to_string()))?;
            }
        }
        let config = Arc::new(builder()?.with_root_certificates(roots).with_no_client_auth());
        if endpoint.ca.is_none() {
            return Ok(self.roots.get_or_init(|| config).clone());
        }
        Ok(config)
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, PullError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| PullError::Malformed(format!("TLS settings: {e}")))
}

/// The host of an authority, without its port and without the brackets of an IPv6 address.
pub fn host_of(authority: &str) -> &str {
    let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = authority.rsplit_once(':').filter(|(_, rest)| port(rest));
    let name = name.map_or(authority, |(name, _)| name);
    name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name)
}
