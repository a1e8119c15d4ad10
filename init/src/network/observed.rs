//! The network as the kernel has it.
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Links with their addresses, and the main table's routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    pub routes: Vec<Route>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Lower-case digits with colons.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    pub carrier: bool,
    /// An Ethernet device of the machine, or a link that the machine config names: ours to set up. Bridges and pods' veths are not.
    pub physical: bool,
    pub addresses: Vec<IpNet>,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub link: u32,
    pub to: IpNet,
    pub via: Option<IpAddr>,
    pub metric: u32,
}

impl Observed {
    /// The link named `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The link that the preferred default route of a family uses, IPv4 first.
    pub fn default_link(&self) -> Option<u32> {
        let defaults = |v4: bool| {
            self.routes
                .iter()
                .filter(move |route| route.to.prefix_len() == 0 && route.to.addr().is_ipv4() == v4)
                .min_by_key(|route| route.metric)
        };
        defaults(true).or_else(|| defaults(false)).map(|route| route.link)
    }
}
