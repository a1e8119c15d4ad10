//! The network as init merged it, for processes that need to know the node's own addresses.
use serde::{Deserialize, Serialize};

/// Written by init to [`crate::paths::NETWORK_STATUS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetwork {
    pub hostname: String,
    /// Addresses of links that are up, loopback and link-local ones left out, with the one that the default route uses first.
    pub addresses: Vec<NodeAddress>,
    pub resolvers: Vec<String>,
    pub search_domains: Vec<String>,
    pub ready: bool,
}

/// One address of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    pub link: String,
    /// Address with prefix length.
    pub address: ipnet::IpNet,
}
