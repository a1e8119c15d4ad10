//! HTTP GET as the kubelet does it for probes and hooks (pkg/probe/http).
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::address::{join, resolve_port};
use super::names::{DialError, Names, PodAddress};
use super::outcome::Outcome;
use super::tls;

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Where to send a GET, and with which headers.
#[derive(Debug, Clone)]
pub(crate) struct Get {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// The request of an `httpGet`. `agent` is the first word of the User-Agent, `kube-probe` or `kube-lifecycle`.
pub(crate) fn request_of(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    agent: &str,
) -> Result<Get, String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    if host.is_empty() {
        return Err("the pod has no address yet".to_owned());
    }
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("invalid header name {:?}", header.name))?;
        let value: HeaderValue =
            header.value.parse().map_err(|_| format!("invalid value of header {}", header.name))?;
        headers.append(name, value);
    }
    if !headers.contains_key(USER_AGENT) {
        let version = machine::paths::KUBERNETES_VERSION.trim_start_matches('v');
        let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        let value = HeaderValue::try_from(format!("{agent}/{minor}")).map_err(|error| error.to_string())?;
        headers.insert(USER_AGENT, value);
    }
    match headers.get(ACCEPT) {
        None => {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        Some(value) if value.is_empty() => {
            headers.remove(ACCEPT);
        }
        Some(_) => {}
    }
    let path = action.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Get {
        tls: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: host.to_owned(),
        port: resolve_port(&action.port, container)?,
        path,
        headers,
    })
}

/// Whether the server answers with 2xx or 3xx. Redirects to the same host are followed; one to another host ends the probe with a
/// warning.
pub(super) async fn probe(mut get: Get, pod: PodAddress<'_>) -> Outcome {
    for _ in 0..MAX_REDIRECTS {
        let url = get.url();
        let response = match send(&get, pod.names, pod.uid).await {
            Ok(response) => response,
            Err(SendError::Dial(error)) if error.is_ours() => return Outcome::Error(error.to_string()),
            Err(error) => return Outcome::Failure(format!("Get {url:?}: {error}")),
        };
        let status = response.status();
        if let Some(next) = redirected(&get, &response) {
            if next.host == get.host {
                get = next;
                continue;
            }
            let body = short_body(response).await;
            return Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
        }
        return match status.as_u16() {
            200..300 => Outcome::Success,
            300..400 => Outcome::Warning(format!(
                "Probe terminated redirects, Response body: {}",
                short_body(response).await
            )),
            // The body is the container's and not for everybody's eyes.
            code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    Outcome::Failure(format!("Get {:?}: stopped after {MAX_REDIRECTS} redirects", get.url()))
}

/// A request that has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Exchange(String),
}

/// Sends the request for a pod on a connection of its own and reads the head of the answer.
pub(crate) async fn send(get: &Get, names: &Names, pod: &str) -> Result<Response<Incoming>, SendError> {
    let stream = names.connect(pod, &get.host, get.port).await?;
    if !get.tls {
        return exchange(stream, get).await.map_err(SendError::Exchange);
    }
    let secured = async {
        let config = tls::unverified().map_err(|error| error.to_string())?;
        let name = ServerName::try_from(get.host.clone()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
        exchange(stream.map_err(|error| format!("tls: {error}"))?, get).await
    };
    secured.await.map_err(SendError::Exchange)
}

async fn exchange<S>(stream: S, get: &Get) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = get.path.parse::<Uri>().map_err(|error| error.to_string())?;
    *request.headers_mut() = get.headers.clone();
    if request.headers().get(HOST).is_none_or(HeaderValue::is_empty) {
        let host = HeaderValue::try_from(join(&get.host, get.port)).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    // The connection has to be driven while the answer is read; it ends when the answer is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

fn redirected(get: &Get, response: &Response<Incoming>) -> Option<Get> {
    let follows = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !follows.contains(&response.status()) {
        return None;
    }
    get.at(response.headers().get(LOCATION)?.to_str().ok()?)
}

async fn short_body(response: Response<Incoming>) -> String {
    match Limited::new(response.into_body(), MAX_BODY).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    }
}

impl Get {
    /// As messages show it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", join(&self.host, self.port), self.path)
    }

    /// The request that a Location header leads to.
    pub(super) fn at(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        let uri: Uri = location.split('#').next()?.parse().ok()?;
        if let Some(host) = uri.host() {
            next.tls = uri.scheme_str().map_or(self.tls, |scheme| scheme == "https");
            next.host = host.trim_matches(['[', ']']).to_owned();
            next.port = uri.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
            next.headers.remove(HOST);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        next.path = if path.starts_with('/') {
            path.to_owned()
        } else {
            let folder =
                self.path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(f, _)| f);
            format!("{folder}/{path}")
        };
        Some(next)
    }
}
