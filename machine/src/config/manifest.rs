use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kubernetes objects that control-plane machines apply to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// DNS label.
    pub name: String,
    /// One or more YAML documents.
    pub content: String,
}
