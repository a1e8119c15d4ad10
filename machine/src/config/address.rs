use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LinkMatch;

/// A static address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    pub link: LinkMatch,
    /// Address with prefix length, such as `10.5.0.10/24`.
    #[schemars(with = "String")]
    pub address: IpNet,
}
