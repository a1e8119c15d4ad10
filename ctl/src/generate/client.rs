use serde::{Deserialize, Serialize};

use super::Secrets;

/// `pintleconfig`: how the command line reaches a cluster's machines.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientConfig {
    pub cluster: String,
    /// Machines to ask when `--nodes` names none: host or host:port.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// The machine CA, PEM.
    pub ca: String,
    /// Client certificate, PEM.
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig")
            .field("cluster", &self.cluster)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// The administrator's client config for a cluster whose machines answer at `endpoints`.
    #[must_use]
    pub fn new(cluster: &str, endpoints: Vec<String>, secrets: &Secrets) -> Self {
        Self {
            cluster: cluster.into(),
            endpoints,
            ca: secrets.machine_ca.certificate.clone(),
            certificate: secrets.admin.certificate.clone(),
            key: secrets.admin.key.clone(),
        }
    }
}
