use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the clock is set from. Without this document: NTP servers from DHCP, otherwise none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeSync {
    /// NTP servers, names or addresses. An empty list switches time synchronisation off.
    #[serde(default)]
    pub servers: Vec<String>,
}
