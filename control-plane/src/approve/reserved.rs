//! Names and addresses that a kubelet's certificate never has, because clients know something else by them.
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::input::{Input, endpoint_host_port};

/// The label that only the control plane gives: NodeRestriction keeps nodes from setting it.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// What is taken by the API server, by Services and by pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Lower case; each stands for itself and everything below it.
    domains: Vec<String>,
    /// Service and pod ranges.
    ranges: Vec<IpNet>,
    /// What clients know the API server by beside its Service.
    endpoints: Vec<IpAddr>,
    /// The Node of this very control-plane machine, which may not be labelled yet.
    own_node: String,
}

impl Reserved {
    /// The names and addresses of a cluster.
    #[must_use]
    pub fn new(input: &Input) -> Self {
        let cluster = &input.cluster;
        let mut reserved = Self {
            domains: ["localhost", "kubernetes", "svc"].map(Into::into).to_vec(),
            ranges: cluster.service_cidrs.iter().chain(&cluster.pod_cidrs).copied().collect(),
            endpoints: Vec::new(),
            own_node: input.node_name.clone(),
        };
        reserved.domains.push(plain(&cluster.dns_domain));
        let endpoint = endpoint_host_port(&cluster.control_plane_endpoint).map(|(host, _)| host);
        for name in endpoint.into_iter().chain(cluster.api_server_cert_sans.iter().map(String::as_str)) {
            match name.parse() {
                Ok(address) => reserved.endpoints.push(address),
                // A control-plane machine may be the host that the endpoint names; as a node it is called so too.
                Err(_) if plain(name) == input.node_name => {}
                Err(_) => reserved.domains.push(plain(name)),
            }
        }
        reserved
    }

    /// Why a node of this name gets no certificate for it.
    pub(super) fn name(&self, name: &str) -> Option<String> {
        let name = plain(name);
        let taken = |domain: &str| {
            name == domain
                || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
                // `kubernetes.default` and whatever else begins as the API server's own names do.
                || (domain == "kubernetes" && name.starts_with("kubernetes."))
        };
        let domain = self.domains.iter().find(|domain| taken(domain))?;
        Some(format!("the DNS name {name} is reserved: {domain} and names below it are no node's"))
    }

    /// Why a Node gets no certificate for this address.
    pub(super) fn address(&self, ip: IpAddr, node: &Node) -> Option<String> {
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local(ip) {
            return Some(format!("the address {ip} is not one that others reach a node by"));
        }
        if let Some(range) = self.ranges.iter().find(|range| range.contains(&ip)) {
            return Some(format!("the address {ip} is in {range}, a range of Services or pods"));
        }
        let labelled = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(CONTROL_PLANE));
        let is_control_plane = labelled || node.metadata.name.as_deref() == Some(&*self.own_node);
        (!is_control_plane && self.endpoints.contains(&ip))
            .then(|| format!("the address {ip} is the API server's and the Node is not of the control plane"))
    }
}

/// A DNS name as it is compared: lower case, without a wildcard's star and the root's dot.
fn plain(name: &str) -> String {
    name.trim_start_matches("*.").trim_end_matches('.').to_ascii_lowercase()
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
