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
    /// The CA of the machine API, which signs its clients. Its key is on control-plane machines (and machines without a cluster) only:
    /// they sign their own serving certificate and, for a join token, those of workers. Without a CA the API serves nobody.
    #[serde(default, rename = "ca", skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// Lets a worker have its serving certificate signed by a control-plane machine; both carry it. At least 32 letters and digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_token: Option<String>,
    /// Where a worker has its serving certificate signed, host or host:port (port 50001). Default: the host of
    /// `Cluster.controlPlaneEndpoint`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub join_endpoints: Vec<String>,
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
