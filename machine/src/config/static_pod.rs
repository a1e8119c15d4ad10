use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pod that this machine runs without asking the API server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticPod {
    /// DNS label; names the manifest file.
    pub name: String,
    /// A v1 Pod.
    pub pod: serde_json::Value,
}
