use std::time::SystemTime;

use machine::config::{CertificateAuthority, KeyPair};
use machine::pki::{self, Leaf, PkiError, Usage};
use serde::{Deserialize, Serialize};

/// The organization in a client certificate that may do everything.
pub const ADMIN_ROLE: &str = "pintle:admin";
/// The organization in a client certificate that may only look.
pub const READER_ROLE: &str = "pintle:reader";

/// Everything secret about a cluster. Whoever has the file owns the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secrets {
    /// The CA of the machine API.
    #[serde(rename = "machineCA")]
    pub machine_ca: CertificateAuthority,
    /// The administrator's client certificate for the machine API.
    pub admin: ClientCertificate,
    /// With it a worker has its machine API's certificate signed by a control-plane machine.
    pub join_token: String,
    #[serde(rename = "clusterCA")]
    pub cluster_ca: CertificateAuthority,
    #[serde(rename = "etcdCA")]
    pub etcd_ca: CertificateAuthority,
    #[serde(rename = "frontProxyCA")]
    pub front_proxy_ca: CertificateAuthority,
    /// Files of before there was this authority have none; the control-plane machine then makes one.
    #[serde(default, rename = "kubeletServingCA", skip_serializing_if = "Option::is_none")]
    pub kubelet_serving_ca: Option<CertificateAuthority>,
    pub service_account: KeyPair,
    pub bootstrap_token: String,
}

/// A client certificate with its key, PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Makes the secrets of a new cluster.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn new(now: SystemTime) -> Result<Self, PkiError> {
        let machine_ca = pki::new_ca("pintle", now)?;
        Ok(Self {
            admin: issue_client(&machine_ca, "admin", ADMIN_ROLE, now)?,
            machine_ca,
            join_token: pki::join_token()?,
            cluster_ca: pki::new_ca("kubernetes", now)?,
            etcd_ca: pki::new_ca("etcd-ca", now)?,
            front_proxy_ca: pki::new_ca("front-proxy-ca", now)?,
            kubelet_serving_ca: Some(pki::new_ca("kubelet-serving-ca", now)?),
            service_account: pki::new_key_pair()?,
            bootstrap_token: pki::bootstrap_token()?,
        })
    }
}

/// Issues a client certificate of the machine API with a role.
///
/// # Errors
/// When the CA has no key or is no CA.
pub fn issue_client(
    ca: &CertificateAuthority,
    name: &str,
    role: &str,
    now: SystemTime,
) -> Result<ClientCertificate, PkiError> {
    let leaf = Leaf {
        common_name: name.into(),
        organization: Some(role.into()),
        usage: Usage::Client,
        ..Leaf::default()
    };
    let issued = pki::issue(ca, &leaf, now)?;
    Ok(ClientCertificate { certificate: issued.certificate, key: issued.key })
}
