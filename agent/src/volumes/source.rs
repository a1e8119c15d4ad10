use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::bundles::TrustBundle;

/// How volumes and environments read objects that pods refer to. Implementations answer from a watch when they can.
pub trait Source: fmt::Debug + Send + Sync {
    /// A ConfigMap.
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>>;

    /// A Secret.
    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>>;

    /// A new token of a service account, bound to a pod.
    fn token<'a>(
        &'a self,
        request: TokenRequest<'a>,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>>;

    /// All ClusterTrustBundles.
    fn trust_bundles(&self) -> BoxFuture<'_, Result<Arc<Vec<TrustBundle>>, SourceError>> {
        Box::pin(async { Err(SourceError::other("ClusterTrustBundles cannot be read")) })
    }

    /// Makes a PodCertificateRequest; the answer is its name.
    fn ask_certificate<'a>(
        &'a self,
        _: CertificateRequest<'a>,
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        Box::pin(async { Err(SourceError::other("certificates cannot be asked for")) })
    }

    /// What became of a PodCertificateRequest; it is waited for a little.
    fn certificate_answer<'a>(
        &'a self,
        _namespace: &'a str,
        _name: &'a str,
    ) -> BoxFuture<'a, Result<Answer, SourceError>> {
        Box::pin(async { Err(SourceError::other("certificates cannot be asked for")) })
    }
}

/// What to ask of a signer for a pod.
#[derive(Debug, Clone)]
pub struct CertificateRequest<'a> {
    pub namespace: &'a str,
    pub pod_name: &'a str,
    pub pod_uid: &'a str,
    pub service_account: &'a str,
    pub signer: &'a str,
    pub max_expiration_seconds: Option<i32>,
    pub annotations: Option<BTreeMap<String, String>>,
    /// A PKCS#10 request that holds nothing but the key.
    pub pkcs10: Vec<u8>,
}

/// A signer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Issued {
        chain: String,
        refresh_at: Timestamp,
        not_after: Timestamp,
    },
    /// For good.
    Refused {
        how: &'static str,
        reason: String,
        message: String,
    },
    Pending,
}

/// What to ask of a service account's `token` subresource.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
    pub pod_name: &'a str,
    pub pod_uid: &'a str,
    /// `None`: the API server's own audience.
    pub audience: Option<&'a str>,
    pub expiration_seconds: i64,
}

/// A token and when it ends.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    pub token: String,
    pub expires: Timestamp,
}

impl fmt::Debug for ServiceAccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccountToken {{ expires: {} }}", self.expires)
    }
}

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    message: String,
    not_found: bool,
}

impl SourceError {
    /// The object does not exist; whoever finds it optional goes on without it.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { message: message.into(), not_found: true }
    }

    /// Anything else.
    pub fn other(message: impl Into<String>) -> Self {
        Self { message: message.into(), not_found: false }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.not_found
    }
}
