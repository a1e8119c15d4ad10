use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

/// A route to pods of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRoute {
    pub pods: IpNet,
    pub via: IpAddr,
}

/// What routes need of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    pub pod_cidrs: Vec<IpNet>,
    pub internal_ips: Vec<IpAddr>,
}

/// Reads it from the Node; ranges and addresses that do not parse are left out.
#[must_use]
pub fn peer(node: &Node) -> Peer {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default().iter();
    let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let cidrs: BTreeSet<IpNet> =
        listed.chain(single).filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|cidr| cidr.trunc()).collect();
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    Peer {
        pod_cidrs: cidrs.into_iter().collect(),
        internal_ips: internal.filter_map(|address| address.address.parse().ok()).collect(),
    }
}

/// The routes that this machine, `own`, should have. `links` are its own addresses with their subnets.
#[must_use]
pub fn wanted(own: &str, peers: &BTreeMap<String, Peer>, links: &[IpNet]) -> BTreeSet<PodRoute> {
    let others = peers.iter().filter(|(name, _)| name.as_str() != own).map(|(_, peer)| peer);
    let mut routes: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
    for peer in others {
        for pods in &peer.pod_cidrs {
            let same_family = |ip: &&IpAddr| ip.is_ipv4() == pods.addr().is_ipv4();
            // On one of our subnets, and not an address of our own.
            let reachable = |ip: &&IpAddr| {
                links.iter().any(|link| link.contains(*ip)) && !links.iter().any(|link| link.addr() == **ip)
            };
            if let Some(via) = peer.internal_ips.iter().find(|ip| same_family(ip) && reachable(ip)) {
                routes.entry(*pods).or_insert(*via);
            }
        }
    }
    routes.into_iter().map(|(pods, via)| PodRoute { pods, via }).collect()
}

/// What to remove, and then what to add.
#[must_use]
pub fn changes(wanted: &BTreeSet<PodRoute>, present: &BTreeSet<PodRoute>) -> (Vec<PodRoute>, Vec<PodRoute>) {
    (present.difference(wanted).copied().collect(), wanted.difference(present).copied().collect())
}
