use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LinkMatch;

/// A static route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    pub link: LinkMatch,
    /// Destination, such as `0.0.0.0/0`.
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Next hop; without it the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Lower is preferred.
    #[serde(default = "default_metric")]
    pub metric: u32,
}

const fn default_metric() -> u32 {
    512
}
