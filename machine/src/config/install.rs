use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which disk the machine's state lives on, and whether the OS is installed to it. Without this document the state lies on the
/// partition named PINTLE-STATE, or on the only blank disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Install {
    #[serde(default)]
    pub disk: DiskSelector,
    /// True makes a disk that holds other data ours: everything on it is lost. Without it only a blank disk is taken.
    #[serde(default)]
    pub wipe: bool,
}

/// Selects one disk; every field that is set must match, and exactly one disk may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskSelector {
    /// Device path, such as `/dev/vda` or `/dev/disk/by-id/nvme-MODEL_SERIAL`; of the folders below /dev/disk only by-id is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Smallest size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
}
