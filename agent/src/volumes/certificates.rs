//! Certificates that the cluster's signers issue to pods (pkg/kubelet/podcertificate): one key and one chain for each projection, renewed in
//! time. They live in memory: an agent that restarts asks anew.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::source::{Answer, CertificateRequest, Source};

/// How long a request that the API server does not know any more is believed to be there.
const ABANDON: SignedDuration = SignedDuration::from_mins(10);
/// Far more than a node's pods use.
const MAX: usize = 4096;

/// Pod, volume, and the place of the source in it.
type Key = (String, String, usize);

/// A key and its certificate chain, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) key: String,
    pub(super) chain: String,
    pub(super) refresh_at: Timestamp,
    not_after: Timestamp,
}

#[derive(Clone)]
struct Asked {
    key: String,
    name: String,
    at: Timestamp,
}

#[derive(Clone, Default)]
struct Record {
    issued: Option<Credential>,
    asked: Option<Asked>,
    /// The signer's last word against it.
    refused: Option<String>,
}

/// The credentials of all pods.
#[derive(Default)]
pub(super) struct Certificates {
    records: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Record>>>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// The credential of one projection: as it is, renewed, or issued now.
    pub(super) async fn get(
        &self,
        source: &dyn Source,
        pod: &Pod,
        place: (&str, usize),
        projection: &PodCertificateProjection,
        now: Timestamp,
    ) -> Result<Credential, String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let record = {
            let mut records = self.records.lock().map_err(|_| "credentials are lost".to_owned())?;
            if records.len() >= MAX {
                return Err(format!("{MAX} pod certificates are in use on this node"));
            }
            records.entry((uid, place.0.to_owned(), place.1)).or_default().clone()
        };
        let mut record = record.lock().await;
        if let Some(issued) = record.issued.clone().filter(|issued| now < issued.refresh_at) {
            return Ok(issued);
        }
        let renewed = renew(&mut record, source, pod, projection, now).await;
        match (renewed, record.issued.clone()) {
            (Err(_), Some(old)) if old.not_after > now && record.refused.is_none() => Ok(old),
            (result, _) => result,
        }
    }

    /// Forgets a pod that is gone.
    pub(super) fn forget(&self, uid: &str) {
        if let Ok(mut records) = self.records.lock() {
            records.retain(|(pod, ..), _| pod != uid);
        }
    }
}

async fn renew(
    record: &mut Record,
    source: &dyn Source,
    pod: &Pod,
    projection: &PodCertificateProjection,
    now: Timestamp,
) -> Result<Credential, String> {
    if let Some(refused) = &record.refused {
        return Err(refused.clone());
    }
    let asked = match record.asked.clone() {
        Some(asked) => asked,
        None => {
            let asked = ask(source, pod, projection, now).await?;
            record.asked.insert(asked).clone()
        }
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = format!("PodCertificateRequest {namespace}/{}", asked.name);
    match source.certificate_answer(namespace, &asked.name).await {
        Ok(Answer::Issued { chain, refresh_at, not_after }) => {
            record.asked = None;
            let issued = Credential { key: asked.key, chain: clean(&chain), refresh_at, not_after };
            Ok(record.issued.insert(issued).clone())
        }
        Ok(Answer::Refused { how, reason, message }) => {
            let text = format!("{name} was {how}, reason={reason:?}, message={message:?}");
            Err(record.refused.insert(text).clone())
        }
        Ok(Answer::Pending) => Err(format!("{name} is not issued yet")),
        Err(error) => {
            if error.is_not_found() && now.duration_since(asked.at) > ABANDON {
                record.asked = None;
            }
            Err(format!("{name}: {error}"))
        }
    }
}

async fn ask(
    source: &dyn Source,
    pod: &Pod,
    projection: &PodCertificateProjection,
    now: Timestamp,
) -> Result<Asked, String> {
    let algorithm = match projection.key_type.as_str() {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        other => {
            return Err(format!(
                "podCertificate: this node makes no keys of type {other:?}; use ECDSAP256, ECDSAP384 or ED25519"
            ));
        }
    };
    let key = KeyPair::generate_for(algorithm).map_err(|error| format!("make a key: {error}"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| format!("make a request: {error}"))?;
    let spec = pod.spec.as_ref();
    let name = source
        .ask_certificate(CertificateRequest {
            namespace: pod.metadata.namespace.as_deref().unwrap_or("default"),
            pod_name: pod.metadata.name.as_deref().unwrap_or_default(),
            pod_uid: pod.metadata.uid.as_deref().unwrap_or_default(),
            service_account: spec.and_then(|s| s.service_account_name.as_deref()).unwrap_or("default"),
            signer: &projection.signer_name,
            max_expiration_seconds: projection.max_expiration_seconds,
            annotations: projection.user_annotations.clone(),
            pkcs10: request.der().to_vec(),
        })
        .await
        .map_err(|error| error.to_string())?;
    Ok(Asked { key: key.serialize_pem(), name, at: now })
}

/// The chain's certificates alone, without what may stand between them.
fn clean(chain: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in chain.lines().map(str::trim) {
        inside |= line.starts_with("-----BEGIN ");
        if inside && !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
        if line.starts_with("-----END ") {
            inside = false;
        }
    }
    text
}
