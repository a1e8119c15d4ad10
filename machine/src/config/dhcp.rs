use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LinkMatch;

/// DHCP on a link. It is on for every Ethernet link that no `Link`, `Dhcp` or `Address` document names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dhcp {
    pub link: LinkMatch,
    /// False switches DHCPv4 off.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// Metric of the routes it brings; lower is preferred.
    #[serde(default = "default_metric")]
    pub route_metric: u32,
    /// False ignores the name servers it brings.
    #[serde(default = "yes")]
    pub use_resolvers: bool,
    /// False ignores the host name it brings.
    #[serde(default = "yes")]
    pub use_hostname: bool,
}

const fn yes() -> bool {
    true
}

const fn default_metric() -> u32 {
    1024
}
