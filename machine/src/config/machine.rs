use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CertificateAuthority;

/// What the machine is, and who may manage it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Host name, a DNS label or name. Default: from DHCP, otherwise `pintle-` and the last six digits of the first MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// `ControlPlane` or `Worker`.
    #[serde(default)]
    pub role: Role,
    /// The CA that signs clients of the machine API. With its key the node signs its own serving certificate; both are
    /// needed, since the API serves nobody without it.
    #[serde(default, rename = "ca", skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// Further DNS names and IP addresses for the machine API's serving certificate.
    #[serde(default, rename = "apiCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub api_cert_sans: Vec<String>,
}

/// What a machine does in its cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// Runs etcd, the API server, the controller manager and the scheduler.
    ControlPlane,
    /// Runs pods only.
    #[default]
    Worker,
}
