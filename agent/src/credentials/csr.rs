//! Asking the cluster for a certificate.
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::pem::Pair;

/// How long an approval is waited for before the request is made anew.
const APPROVAL: Duration = Duration::from_secs(15 * 60);

/// What certificate is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub signer: &'static str,
    pub usage: &'static str,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Makes a key, has it certified, and waits for the certificate.
///
/// # Errors
/// When the request is refused, denied, or not answered in time; each says so.
pub async fn request(client: &kube::Client, node: &str, wanted: &Wanted) -> anyhow::Result<Pair> {
    let key = KeyPair::generate().context("make a key")?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name = name;
    for dns in &wanted.dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName(dns.as_str().try_into().context("name a certificate")?));
    }
    params.subject_alt_names.extend(wanted.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    let request =
        params.serialize_request(&key).context("make a request")?.pem().context("make a request")?;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: wanted.signer.into(),
            usages: Some(vec!["digital signature".into(), wanted.usage.into()]),
            ..Default::default()
        },
        status: None,
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let params = PostParams::default();
    let create = requests.create(&params, &object);
    let created = tokio::time::timeout(Duration::from_secs(20), create)
        .await
        .map_err(|_| anyhow!("create a certificate signing request: no answer within 20 s"))?
        .context("create a certificate signing request")?;
    let name = created.metadata.name.unwrap_or_default();
    tracing::info!("certificate signing request {name} ({}) waits to be issued", wanted.signer);
    let issued = tokio::time::timeout(APPROVAL, issued(requests, &name)).await.map_err(|_| {
        anyhow!("certificate signing request {name} was not issued within 15 min; approve it with `kubectl certificate approve`")
    })??;
    Pair::parse(format!("{issued}{}", key.serialize_pem())).with_context(|| format!("certificate of {name}"))
}

async fn issued(requests: Api<CertificateSigningRequest>, name: &str) -> anyhow::Result<String> {
    let mut stream = std::pin::pin!(kube::runtime::watcher::watch_object(requests, name));
    let mut failures = 0;
    while let Some(next) = stream.next().await {
        let object = match next {
            Ok(Some(object)) => object,
            Ok(None) => bail!("certificate signing request {name} was deleted"),
            Err(error) => {
                failures += 1;
                tracing::debug!("watch certificate signing request {name}: {error}");
                tokio::time::sleep(super::retry_after(failures)).await;
                continue;
            }
        };
        let status = object.status.unwrap_or_default();
        for condition in status.conditions.iter().flatten() {
            if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                let message = condition.message.clone().unwrap_or_default();
                bail!("certificate signing request {name}: {} ({message})", condition.type_);
            }
        }
        if let Some(certificate) = status.certificate {
            return String::from_utf8(certificate.0).context("the issued certificate is no text");
        }
    }
    bail!("the watch of certificate signing request {name} ended")
}
