//! One HTTP exchange with a registry: a connection of its own, redirects followed without credentials, every wait bounded.
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::PullError;
use super::auth::{self, Challenge, Credentials};
use super::endpoint::{Endpoint, Registries};

/// How long a connection, a handshake or the head of an answer may take.
const HEAD: Duration = Duration::from_secs(30);
/// The most redirects in a row.
const REDIRECTS: usize = 5;

/// Speaks to one endpoint on behalf of one pull; remembers the authorization that worked.
#[derive(Debug)]
pub struct Session<'a> {
    registries: &'a Registries,
    pub endpoint: Endpoint,
    credentials: Credentials,
    scope: String,
    authorization: tokio::sync::Mutex<Option<String>>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    tls: bool,
    authority: String,
    path: String,
}

impl<'a> Session<'a> {
    pub fn new(
        registries: &'a Registries,
        endpoint: Endpoint,
        credentials: Credentials,
        repository: &str,
    ) -> Self {
        let scope = format!("repository:{repository}:pull");
        Self { registries, endpoint, credentials, scope, authorization: tokio::sync::Mutex::default() }
    }

    /// GETs a path below `/v2/`, with authorization where the registry asks for it; any status but 200 and 206 is an error.
    ///
    /// # Errors
    /// As the variants of [`PullError`] say.
    pub async fn get(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<http::Response<Incoming>, PullError> {
        let namespace = self.endpoint.namespace.as_ref().map(|n| format!("?ns={n}")).unwrap_or_default();
        let target = Target {
            tls: self.endpoint.tls,
            authority: self.endpoint.authority.clone(),
            path: format!("{}/v2/{path}{namespace}", self.endpoint.prefix),
        };
        let authorization = self.authorization.lock().await.clone();
        let response = self.follow(target.clone(), headers, authorization.clone()).await?;
        if response.status() != http::StatusCode::UNAUTHORIZED {
            return self.checked(response).await;
        }
        let challenges = response.headers().get_all(http::header::WWW_AUTHENTICATE);
        let challenge = Challenge::choose(challenges.iter().filter_map(|v| v.to_str().ok()));
        let authorization = self.authorize(challenge, authorization).await?;
        self.checked(self.follow(target, headers, Some(authorization)).await?).await
    }

    /// Gets an authorization for a challenge; one layer's 401 serves the others that wait here.
    async fn authorize(
        &self,
        challenge: Option<Challenge>,
        tried: Option<String>,
    ) -> Result<String, PullError> {
        let mut current = self.authorization.lock().await;
        if *current != tried
            && let Some(fresh) = current.clone()
        {
            return Ok(fresh);
        }
        let denied = |why: &str| PullError::Denied(format!("{}: {why}", self.endpoint.authority));
        let fresh = match challenge {
            Some(Challenge::Basic) => self.credentials.basic().ok_or_else(|| denied("no credentials"))?,
            Some(Challenge::Bearer { realm, service, scope }) => {
                if let Some(token) = &self.credentials.registry_token {
                    format!("Bearer {token}")
                } else {
                    let scope = scope.unwrap_or_else(|| self.scope.clone());
                    self.token(&realm, service.as_deref(), &scope).await?
                }
            }
            None => return Err(denied("the registry asks for an unknown kind of authorization")),
        };
        if tried.as_ref() == Some(&fresh) {
            return Err(denied("the credentials are not accepted"));
        }
        *current = Some(fresh.clone());
        Ok(fresh)
    }

    /// Asks the token service that a bearer challenge names.
    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, PullError> {
        let target = Target::parse(realm).ok_or_else(|| {
            PullError::Malformed(format!("{}: token service {realm:?} is no URL", self.endpoint.authority))
        })?;
        if self.endpoint.tls && !target.tls {
            return Err(PullError::Denied(format!("token service {realm} does not use TLS")));
        }
        let request = auth::token_request(&self.credentials, &target.path, service, scope);
        let mut builder = http::Request::builder().method(request.method).uri(&request.path);
        builder = builder.header(http::header::HOST, &target.authority);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let built = builder.body(Full::new(Bytes::from(request.body)));
        let built = built.map_err(|e| PullError::Malformed(format!("token request: {e}")))?;
        let response = self.send(&target, built).await?;
        if !response.status().is_success() {
            return Err(self.failure(response, &target.authority).await);
        }
        let body = read_body(response.into_body(), 1 << 20, &target.authority).await?;
        let token = auth::parse_token(&body).ok_or_else(|| {
            PullError::Malformed(format!("{}: the token service's answer has no token", target.authority))
        })?;
        Ok(format!("Bearer {token}"))
    }

    async fn follow(
        &self,
        mut target: Target,
        headers: &[(&'static str, String)],
        mut authorization: Option<String>,
    ) -> Result<http::Response<Incoming>, PullError> {
        let origin = target.clone();
        for _ in 0..=REDIRECTS {
            let mut builder = http::Request::get(&target.path).header(http::header::HOST, &target.authority);
            builder = builder.header(http::header::USER_AGENT, concat!("pintle/", env!("CARGO_PKG_VERSION")));
            for (name, value) in headers {
                builder = builder.header(*name, value);
            }
            if let Some(authorization) = &authorization {
                builder = builder.header(http::header::AUTHORIZATION, authorization);
            }
            let request = builder.body(Full::new(Bytes::new()));
            let request = request.map_err(|e| PullError::Malformed(format!("request: {e}")))?;
            let response = self.send(&target, request).await?;
            if !response.status().is_redirection() {
                // A challenge from where we were sent is not the registry's, and gets nothing (CVE-2020-15157).
                if response.status() == http::StatusCode::UNAUTHORIZED && !target.same_server(&origin) {
                    return Err(PullError::Denied(format!(
                        "{} asks for authorization after a redirect",
                        target.authority
                    )));
                }
                return Ok(response);
            }
            let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
            let next = location.and_then(|l| target.join(l)).ok_or_else(|| {
                PullError::Malformed(format!("{}: redirect without a usable Location", target.authority))
            })?;
            if target.tls && !next.tls {
                return Err(PullError::Malformed(format!(
                    "{}: redirect from https to http",
                    target.authority
                )));
            }
            if !next.same_server(&origin) {
                authorization = None;
            }
            target = next;
        }
        Err(PullError::Malformed(format!("{}: more than {REDIRECTS} redirects", origin.authority)))
    }

    async fn send(
        &self,
        target: &Target,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, PullError> {
        let failed = |action| {
            move |source: io::Error| PullError::Transport { host: target.authority.clone(), action, source }
        };
        let exchange = async {
            let stream = TcpStream::connect(target.address()).await.map_err(failed("connecting"))?;
            stream.set_nodelay(true).map_err(failed("connecting"))?;
            let mut builder = hyper::client::conn::http1::Builder::new();
            builder.max_buf_size(64 << 10);
            let mut sender = if target.tls {
                let config = self.registries.tls(&self.endpoint, &target.authority)?;
                let name = ServerName::try_from(target.host().to_owned());
                let name = name.map_err(|e| failed("naming")(io::Error::other(e)))?;
                let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
                let stream = stream.map_err(failed("TLS handshake"))?;
                let (sender, connection) = builder
                    .handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| failed("HTTP handshake")(io::Error::other(e)))?;
                tokio::spawn(connection);
                sender
            } else {
                let (sender, connection) = builder
                    .handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| failed("HTTP handshake")(io::Error::other(e)))?;
                tokio::spawn(connection);
                sender
            };
            sender.send_request(request).await.map_err(|e| failed("request")(io::Error::other(e)))
        };
        match tokio::time::timeout(HEAD, exchange).await {
            Ok(result) => result,
            Err(_) => Err(failed("waiting for an answer")(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn checked(
        &self,
        response: http::Response<Incoming>,
    ) -> Result<http::Response<Incoming>, PullError> {
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            _ => Err(self.failure(response, &self.endpoint.authority).await),
        }
    }

    async fn failure(&self, response: http::Response<Incoming>, host: &str) -> PullError {
        let status = response.status();
        let body = read_body(response.into_body(), 64 << 10, host).await.unwrap_or_default();
        let message = auth::error_message(&body);
        match status.as_u16() {
            404 => PullError::NotFound,
            401 | 403 => PullError::Denied(format!("{host}: {status}: {message}")),
            _ => PullError::Status { host: host.into(), status: status.as_u16(), message },
        }
    }
}

/// A whole body of at most `most` bytes.
///
/// # Errors
/// When it is larger, breaks off or stalls.
pub async fn read_body(body: Incoming, most: usize, host: &str) -> Result<Bytes, PullError> {
    let failed = |source| PullError::Transport { host: host.into(), action: "reading the answer", source };
    match tokio::time::timeout(HEAD, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(failed(io::Error::other(error))),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

impl Target {
    fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Some(Self { tls, authority: authority.to_string(), path: path.to_owned() })
    }

    fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with("//") {
            return None;
        }
        if location.starts_with('/') {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        Self::parse(location)
    }

    fn same_server(&self, other: &Self) -> bool {
        self.tls == other.tls && self.address().eq_ignore_ascii_case(&other.address())
    }

    fn host(&self) -> &str {
        let name =
            self.authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let name = name.map_or(self.authority.as_str(), |(name, _)| name);
        name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name)
    }

    fn address(&self) -> String {
        let has_port =
            self.authority.rsplit_once(':').is_some_and(|(_, p)| p.bytes().all(|b| b.is_ascii_digit()));
        match (has_port, self.tls) {
            (true, _) => self.authority.clone(),
            (false, true) => format!("{}:443", self.authority),
            (false, false) => format!("{}:80", self.authority),
        }
    }
}
