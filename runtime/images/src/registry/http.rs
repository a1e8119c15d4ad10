//! One HTTP exchange with a registry: a connection of its own, redirects followed without credentials, every
//! wait bounded.
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::auth::{self, Challenge, Credentials};
use super::endpoint::{Endpoint, Registries};
use super::reach::{NoConnection, Trust};
use super::target::Target;
use super::{CONNECTING, PullError, retry, said};

/// How often a small document is asked for before another server is.
const TRIES: u32 = 3;
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

    /// Where a path below `/v2/` is asked for, as errors name it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{}/v2/{path}", self.endpoint.authority, self.endpoint.prefix)
    }

    pub fn patience(&self) -> Duration {
        self.registries.patience
    }

    /// GETs a small document below `/v2/` as a whole: what it is, and its headers. Tried again while the
    /// server stumbles.
    ///
    /// # Errors
    /// As [`Session::get`]; when it has more than `most` bytes.
    pub async fn read(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        most: usize,
    ) -> Result<(http::HeaderMap, Bytes), PullError> {
        let mut tried = 0;
        loop {
            let error = match self.read_once(path, headers, most).await {
                Ok(document) => return Ok(document),
                Err(error) => error,
            };
            tried += 1;
            match retry::pause(&error, tried, TRIES) {
                Some(pause) if !retry::is_dead(&error) => {
                    tracing::info!(%error, "asking again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn read_once(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        most: usize,
    ) -> Result<(http::HeaderMap, Bytes), PullError> {
        let (parts, body) = self.get(path, headers).await?.into_parts();
        Ok((parts.headers, self.body(body, most, &self.url(path)).await?))
    }

    /// GETs a path below `/v2/`, with authorization where the registry asks for it; any status but 200 and
    /// 206 is an error.
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
        let url = self.url(path);
        if response.status() != http::StatusCode::UNAUTHORIZED {
            return self.checked(response, &url).await;
        }
        let challenges = response.headers().get_all(http::header::WWW_AUTHENTICATE);
        let challenge = Challenge::choose(challenges.iter().filter_map(|v| v.to_str().ok()));
        let authorization = self.authorize(challenge, authorization).await?;
        self.checked(self.follow(target, headers, Some(authorization)).await?, &url).await
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
            builder = builder.header(*name, secret(value)?);
        }
        let built = builder.body(Full::new(Bytes::from(request.body)));
        let built = built.map_err(|e| PullError::Malformed(format!("token request: {e}")))?;
        let response = self.send(&target, built).await?;
        if !response.status().is_success() {
            return Err(self.failure(response, &target.shown()).await);
        }
        let body = self.body(response.into_body(), 1 << 20, &target.shown()).await?;
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
                builder = builder.header(http::header::AUTHORIZATION, secret(authorization)?);
            }
            let request = builder.body(Full::new(Bytes::new()));
            let request = request.map_err(|e| PullError::Malformed(format!("request: {e}")))?;
            let response = self.send(&target, request).await?;
            if !response.status().is_redirection() {
                if target.same_server(&origin) || response.status().is_success() {
                    return Ok(response);
                }
                // A challenge from where we were sent is not the registry's, and gets nothing
                // (CVE-2020-15157).
                if response.status() == http::StatusCode::UNAUTHORIZED {
                    return Err(PullError::Denied(format!(
                        "{} asks for authorization after a redirect",
                        target.shown()
                    )));
                }
                // Nor are its words.
                return Err(failure(&response, &target.shown(), String::new()));
            }
            let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
            let next = location.and_then(|l| target.join(l)).ok_or_else(|| {
                PullError::Malformed(format!("{}: redirect without a usable Location", target.shown()))
            })?;
            if target.tls && !next.tls {
                return Err(PullError::Malformed(format!("{}: redirect from https to http", target.shown())));
            }
            if !next.same_server(&origin) {
                authorization = None;
            }
            target = next;
        }
        Err(PullError::Malformed(format!("{}: more than {REDIRECTS} redirects", origin.shown())))
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, PullError> {
        let trust = if self.registries.is_configured(&target.authority) {
            Trust::Configured
        } else if target.authority == self.endpoint.authority {
            Trust::Named
        } else {
            Trust::Sent
        };
        let stream = self.registries.dialer.connect(target.host(), target.port(), trust).await;
        stream.map_err(|why| match why {
            NoConnection::Failed(source) => {
                PullError::Transport { url: target.shown(), action: CONNECTING, source }
            }
            NoConnection::Refused(address, what) => {
                let what = if target.host() == address.to_string() {
                    what.to_owned()
                } else {
                    format!("at {address}, {what}")
                };
                PullError::Refused { server: target.authority.clone(), what }
            }
        })
    }

    async fn send(
        &self,
        target: &Target,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, PullError> {
        let failed =
            |action| move |source: io::Error| PullError::Transport { url: target.shown(), action, source };
        let exchange = async {
            let stream = self.connect(target).await?;
            stream.set_nodelay(true).map_err(failed(CONNECTING))?;
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
        match tokio::time::timeout(self.patience(), exchange).await {
            Ok(result) => result,
            Err(_) => Err(failed("waiting for an answer")(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn checked(
        &self,
        response: http::Response<Incoming>,
        url: &str,
    ) -> Result<http::Response<Incoming>, PullError> {
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            _ => Err(self.failure(response, url).await),
        }
    }

    async fn failure(&self, response: http::Response<Incoming>, url: &str) -> PullError {
        let (parts, body) = response.into_parts();
        let body = self.body(body, 64 << 10, url).await.unwrap_or_default();
        let message = auth::error_message(&body, |text| self.hide(text)).unwrap_or_default();
        failure(&http::Response::from_parts(parts, ()), url, message)
    }

    /// What a server says, without credentials that it may repeat: it goes into logs and events.
    fn hide(&self, text: String) -> String {
        // Nobody changes it while an answer is read, but for the token service's.
        let current = self.authorization.try_lock().ok().and_then(|current| current.clone());
        self.credentials.hide(text, current.as_deref())
    }

    /// A whole body of at most `most` bytes.
    ///
    /// # Errors
    /// When it is larger, breaks off or stalls.
    async fn body(&self, body: Incoming, most: usize, url: &str) -> Result<Bytes, PullError> {
        let failed = |source| PullError::Transport { url: url.into(), action: "reading the answer", source };
        match tokio::time::timeout(self.patience(), Limited::new(body, most).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(PullError::Malformed(format!("{url}: more than {most} bytes")))
            }
            Ok(Err(error)) => Err(failed(io::Error::other(error))),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// The error for a status that is none of success.
fn failure<B>(response: &http::Response<B>, url: &str, message: String) -> PullError {
    let status = response.status();
    let retry_after = response.headers().get(http::header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    match status.as_u16() {
        404 => PullError::NotFound(url.into()),
        401 | 403 => PullError::Denied(format!("{url}: {status}{}", said(&message))),
        _ => PullError::Status {
            url: url.into(),
            status: status.as_u16(),
            message,
            retry_after: retry_after.map(Duration::from_secs),
        },
    }
}

/// A header that no debugging output shows.
fn secret(value: &str) -> Result<http::HeaderValue, PullError> {
    let bad = |_| PullError::Malformed("credentials with a character that no header can have".into());
    let mut value = http::HeaderValue::from_str(value).map_err(bad)?;
    value.set_sensitive(true);
    Ok(value)
}
