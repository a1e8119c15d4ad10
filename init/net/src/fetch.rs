//! Fetches one small document over HTTP(S): bounded in size and time, and patient with servers that are not up yet.
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, LOCATION, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use machine::net::MAX_CONFIG;

const CONNECT: Duration = Duration::from_secs(5);
/// The longest that one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
/// How many addresses of a host are tried.
const MAX_ADDRESSES: usize = 4;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Trying again may help.
    #[error("{0}")]
    Passing(String),
    /// It will not.
    #[error("{0}")]
    Final(String),
}

/// Fetches `url`, again and again until it is there or `within` is over.
///
/// # Errors
/// What the last attempt failed for.
pub async fn fetch(url: &str, ca: &str, within: Duration) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + within;
    let mut last = String::from("no time to try");
    let mut pause = Duration::from_millis(500);
    loop {
        let attempt = tokio::time::timeout_at(deadline.min(Instant::now() + ATTEMPT), follow(url, ca));
        match attempt.await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::Passing(error))) => {
                if error != last {
                    tracing::warn!(url, error, "fetch the machine config; trying again");
                }
                last = error;
            }
            Err(_) => last = format!("the server did not finish in time; before that: {last}"),
        }
        if Instant::now() + pause >= deadline {
            return Err(format!("{last} (gave up after {} s)", within.as_secs()));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// One attempt, redirects included. Only up: what began with TLS does not go on without.
async fn follow(url: &str, ca: &str) -> Result<Vec<u8>, Failure> {
    let mut uri: Uri = url.parse().map_err(|error| Failure::Final(format!("not a URL: {error}")))?;
    for _ in 0..=MAX_REDIRECTS {
        match get(&uri, ca).await? {
            Answer::Body(body) => return Ok(body),
            Answer::Elsewhere(location) => {
                let next = resolve(&uri, &location)?;
                if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                    return Err(Failure::Final(format!("{uri} redirects to {next}, which is not encrypted")));
                }
                uri = next;
            }
        }
    }
    Err(Failure::Final(format!("more than {MAX_REDIRECTS} redirects")))
}

enum Answer {
    Body(Vec<u8>),
    Elsewhere(String),
}

async fn get(uri: &Uri, ca: &str) -> Result<Answer, Failure> {
    let bad = |what: &str| Failure::Final(format!("{uri}: {what}"));
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(bad("only http and https URLs can be fetched")),
    };
    let authority = uri.authority().ok_or_else(|| bad("no host"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = connect(host, authority.port_u16().unwrap_or(if tls { 443 } else { 80 })).await?;
    if !tls {
        return exchange(stream, uri).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| bad("no valid host name"))?;
    let stream = connector(ca)?.connect(name, stream).await.map_err(|error| {
        Failure::Passing(format!("TLS with {host}: {error}; is the clock right and the CA known?"))
    })?;
    exchange(stream, uri).await
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let passing = |error: &dyn std::fmt::Display| Failure::Passing(format!("{host}:{port}: {error}"));
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| passing(&error))?;
    let mut last = passing(&"no address");
    for address in addresses.take(MAX_ADDRESSES) {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = passing(&error),
            Err(_) => last = passing(&"no answer within 5 s"),
        }
    }
    Err(last)
}

fn connector(ca: &str) -> Result<TlsConnector, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    if ca.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    } else {
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
                .map_err(|error| Failure::Final(format!("the CA certificate: {error}")))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Final(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: S, uri: &Uri) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let passing = |error: &dyn std::fmt::Display| Failure::Passing(format!("{uri}: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| passing(&error))?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(USER_AGENT, "pintle")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Final(format!("{uri}: {error}")))?;
    let result = async {
        let response = sender.send_request(request).await.map_err(|error| passing(&error))?;
        let status = response.status();
        if status.is_redirection()
            && let Some(location) = response.headers().get(LOCATION)
        {
            let location = location.to_str().map_err(|error| passing(&error))?;
            return Ok(Answer::Elsewhere(location.to_owned()));
        }
        if !status.is_success() {
            return Err(passing(&format!("the server answers {status}")));
        }
        let body = Limited::new(response.into_body(), MAX_CONFIG).collect().await;
        match body {
            Ok(body) => Ok(Answer::Body(body.to_bytes().to_vec())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(Failure::Final(format!("{uri}: larger than {MAX_CONFIG} bytes, so no machine config")))
            }
            Err(error) => Err(passing(&error)),
        }
    };
    let result = result.await;
    connection.abort();
    result
}

/// A redirect's target: an absolute URL or a path on the same host.
fn resolve(base: &Uri, location: &str) -> Result<Uri, Failure> {
    let bad =
        |error: &dyn std::fmt::Display| Failure::Final(format!("{base} redirects to {location:?}: {error}"));
    let target: Uri = location.parse().map_err(|error| bad(&error))?;
    if target.scheme().is_some() {
        return Ok(target);
    }
    if !location.starts_with('/') || location.starts_with("//") {
        return Err(bad(&"only absolute URLs and absolute paths are followed"));
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = target.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|error| bad(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that gives one answer per connection, in turn; the last one for ever.
    async fn server(answers: Vec<String>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/config", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut turn = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answers[turn.min(answers.len() - 1)].as_bytes()).await;
                turn += 1;
            }
        });
        url
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    const WITHIN: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_server_that_comes_late_is_waited_for() {
        let busy = "HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\n\r\n".to_owned();
        let url = server(vec![busy, "garbage\r\n\r\n".into(), ok("kind: Machine")]).await;
        assert_eq!(fetch(&url, "", WITHIN).await.unwrap(), b"kind: Machine");
    }

    #[tokio::test]
    async fn redirects_are_followed_but_not_round_and_round() {
        let there = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_owned();
        let url = server(vec![there.clone(), ok("x")]).await;
        assert_eq!(fetch(&url, "", WITHIN).await.unwrap(), b"x");
        let url = server(vec![there]).await;
        assert!(fetch(&url, "", WITHIN).await.unwrap_err().contains("more than 5 redirects"));
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_at_once_with_or_without_a_length() {
        for head in ["Content-Length: 2000000\r\n", "Connection: close\r\n"] {
            let url = server(vec![format!("HTTP/1.1 200 OK\r\n{head}\r\n{}", "x".repeat(2_000_000))]).await;
            let error = fetch(&url, "", WITHIN).await.unwrap_err();
            assert!(error.contains("larger than 1048576 bytes"), "{error}");
        }
    }

    #[tokio::test]
    async fn attempts_end_with_the_deadline_and_say_why() {
        let error = fetch("http://127.0.0.1:1/", "", Duration::from_secs(2)).await.unwrap_err();
        assert!(error.contains("refused") && error.contains("gave up after 2 s"), "{error}");
        let error = fetch("ftp://127.0.0.1/", "", WITHIN).await.unwrap_err();
        assert!(error.contains("only http and https"), "{error}");
    }

    #[test]
    fn a_redirect_to_another_host_must_say_its_scheme() {
        let base: Uri = "https://a/b?c".parse().unwrap();
        assert_eq!(resolve(&base, "/d?e").ok().unwrap(), "https://a/d?e");
        assert_eq!(resolve(&base, "http://x/").ok().unwrap(), "http://x/");
        assert!(resolve(&base, "//x/y").is_err());
    }
}
