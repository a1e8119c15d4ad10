use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the container runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runtime {
    /// TCP port on 127.0.0.1 where exec, attach and port-forward streams are served to CRI clients other than Pintle's agent, such as crictl
    /// or the kubelet. Without it they are served on a unix socket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_port: Option<u16>,
}
