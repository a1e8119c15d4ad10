use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Runtime {
    /// TCP port on 127.0.0.1 where exec, attach and port-forward streams are served to CRI clients other than Pintle's agent, such as crictl
    /// or the kubelet. Without it they are served on a unix socket alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_port: Option<u16>,
    /// Largest unpacked layer of an image in bytes; an image with a larger one is refused.
    pub max_layer_bytes: u64,
    /// Most files and directories of an image's layer.
    pub max_layer_entries: u64,
    /// Most layers of an image.
    pub max_image_layers: u32,
    /// Seconds for which a registry may give nothing, or next to nothing, before it is asked again; a pull fails when it has been asked in
    /// vain five times.
    pub image_pull_progress_timeout_seconds: u32,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            stream_port: None,
            max_layer_bytes: 64 << 30,
            max_layer_entries: 1_000_000,
            max_image_layers: 500,
            image_pull_progress_timeout_seconds: 30,
        }
    }
}
