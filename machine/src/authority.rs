//! Certificate authorities and key pairs, as machine config holds them.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A certificate authority: certificate and, where the machine may sign, key; PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateAuthority {
    pub certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A key pair, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyPair {
    pub public: String,
    pub private: String,
}
