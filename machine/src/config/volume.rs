use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DiskSelector;

/// A file system on a disk of its own, mounted below /var.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// DNS label; the GPT partition is named after it.
    pub name: String,
    pub disk: DiskSelector,
    /// Absolute path below /var; not above what the OS itself keeps there (`/var/lib/pintle/init`, `/var/etc`, `/var/opt`, `/var/run`). An empty
    /// volume is not mounted over data. The node starts no pods before all volumes are mounted.
    pub mount_path: String,
}
