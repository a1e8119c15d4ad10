//! A connection to a machine: mTLS by the client config's certificates.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use machine::api::machine_client::MachineClient;
use machine::paths::API_PORT;
use rustls::{ClientConfig as TlsConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::generate::ClientConfig;

/// The largest message, in bytes.
const MAX_MESSAGE: usize = machine::socket::MAX_FRAME;
const CONNECT: Duration = Duration::from_secs(10);

/// A machine's client.
pub type Client = MachineClient<Channel>;

/// Connects to `node` (host or host:port).
///
/// # Errors
/// Says whether the node, its certificate or ours is at fault.
pub async fn connect(config: &ClientConfig, node: &str) -> Result<Client> {
    let (host, port) = host_port(node)?;
    let tls = TlsConnector::from(Arc::new(tls(config)?));
    let name =
        ServerName::try_from(host.clone()).with_context(|| format!("{host:?} is no host name or address"))?;
    let connector = tower::service_fn(move |_| {
        let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
        async move {
            let stream = TcpStream::connect((&*host, port)).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let channel = Endpoint::from_static("http://machine")
        .connect_timeout(CONNECT)
        .connect_with_connector(connector)
        .await
        .with_context(|| {
            format!("reach {node}; is the machine up, its port {port} reachable, and the client config of this cluster?")
        })?;
    Ok(MachineClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE))
}

fn tls(config: &ClientConfig) -> Result<TlsConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca.as_bytes()) {
        roots
            .add(certificate.context("read `ca` of the client config")?)
            .context("use `ca` of the client config")?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(config.certificate.as_bytes()).collect();
    let key =
        PrivateKeyDer::from_pem_slice(config.key.as_bytes()).context("read `key` of the client config")?;
    let mut tls = TlsConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("use TLS 1.3")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.context("read `certificate` of the client config")?, key)
        .context("use the client certificate")?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

fn host_port(node: &str) -> Result<(String, u16)> {
    machine::config::host_and_port(node, API_PORT)
        .with_context(|| format!("{node:?} is no machine; write host or host:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_certificates_make_a_tls_config() {
        let secrets = crate::generate::Secrets::new(std::time::SystemTime::now()).unwrap();
        assert!(tls(&ClientConfig::new("demo", vec![], &secrets)).is_ok());
    }
}
