//! Has the machine's serving certificate signed by a control-plane machine, which must show a certificate of the machine CA.
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use machine::api::SignServingRequest;
use machine::api::signer_client::SignerClient;
use machine::pki;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use machine::net::Join;

/// The longest that one control-plane machine may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const LARGEST: usize = 64 << 10;
/// How many control-plane machines are asked.
const MAX_TARGETS: usize = 8;

/// Asks one control-plane machine after the other; the certificate (PEM) that the first one signs.
///
/// # Errors
/// What each of them failed for.
pub async fn join(request: &Join) -> Result<String, String> {
    let tls = connector(&request.ca)?;
    let mut failures = Vec::new();
    for target in request.targets.iter().take(MAX_TARGETS) {
        let (host, port) = (&*target.host, u16::try_from(target.port).unwrap_or_default());
        let asked = tokio::time::timeout(ATTEMPT, ask(host, port, &tls, request)).await;
        match asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ATTEMPT.as_secs()))) {
            Ok(certificate) => return Ok(certificate),
            Err(error) => failures.push(format!("{host}:{port}: {error}")),
        }
    }
    Err(failures.join("; "))
}

async fn ask(host: &str, port: u16, tls: &TlsConnector, request: &Join) -> Result<String, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| "no host name or address".to_owned())?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let stream = tls.connect(name, stream).await.map_err(|error| {
        format!("TLS: {error}; is the clock right, and does that machine have the same machine CA?")
    })?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let once = stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { once }
    });
    let channel = Endpoint::from_static("http://machine")
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("HTTP/2: {error}"))?;
    let mut client = SignerClient::new(channel).max_decoding_message_size(LARGEST);
    let question = SignServingRequest { token: request.token.clone(), csr: request.csr.clone() };
    let answer = client.sign_serving(question).await.map_err(|status| status.message().to_owned())?;
    let answer = answer.into_inner();
    match pki::signed_by(&answer.certificate, &request.ca) {
        Ok(true) => {}
        _ => return Err("what it sent is no certificate of the machine CA".into()),
    }
    if !answer.left_out.is_empty() {
        let left_out = answer.left_out.join(" ");
        tracing::info!(host, left_out, "the certificate does not speak for what is the control plane's");
    }
    Ok(answer.certificate)
}

fn connector(ca: &str) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("read the machine CA: {error}"))?;
        roots.add(certificate).map_err(|error| format!("use the machine CA: {error}"))?;
    }
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
