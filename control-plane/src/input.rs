//! What a pass starts from: the config and the node's addresses.
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use machine::config::{CertificateAuthority, Cluster, KeyPair, MachineConfig, Manifest, Role};
use machine::network::NodeNetwork;

/// Port of the API server where the endpoint does not speak of this very node.
pub const API_SERVER_PORT: u16 = 6443;

/// Everything that the control plane of this node is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    pub cluster: Cluster,
    pub secrets: Secrets,
    pub manifests: Vec<Manifest>,
    /// The node's name in Kubernetes: the host name in lower case.
    pub node_name: String,
    /// The node's address.
    pub address: IpAddr,
    /// Port that the API server listens on.
    pub port: u16,
    /// The endpoint's host is this machine's name or one of its addresses.
    pub endpoint_is_here: bool,
    /// This machine's name or one of its addresses is among the further names of the API server.
    pub named_in_sans: bool,
}

/// The keys that only control-plane machines have.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    pub etcd_ca: CertificateAuthority,
    pub front_proxy_ca: CertificateAuthority,
    /// Signs the serving certificates of kubelets; a machine whose config has none makes one and keeps it.
    pub kubelet_serving_ca: Option<CertificateAuthority>,
    pub service_account: KeyPair,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Input {
    /// Puts the input together.
    ///
    /// # Errors
    /// Names what is missing: the role, the cluster, a key, the host name or an address.
    pub fn new(config: &MachineConfig, network: &NodeNetwork) -> Result<Self> {
        if config.machine.role != Role::ControlPlane {
            bail!("the machine's role is not ControlPlane; set `role: ControlPlane` in its Machine document");
        }
        let cluster = config.cluster.clone().context("the machine config has no Cluster document")?;
        let missing =
            |field| format!("Cluster.{field} is missing; take it from the file of `pintle gen config`");
        let secrets = Secrets {
            etcd_ca: cluster.etcd_ca.clone().with_context(|| missing("etcdCA"))?,
            front_proxy_ca: cluster.front_proxy_ca.clone().with_context(|| missing("frontProxyCA"))?,
            kubelet_serving_ca: cluster.kubelet_serving_ca.clone(),
            service_account: cluster.service_account.clone().with_context(|| missing("serviceAccount"))?,
        };
        if network.hostname.is_empty() {
            bail!("the node has no host name yet");
        }
        let address = node_address(&config.node_agent.node_ip_subnets, network)
            .context("the node has no address of NodeAgent.nodeIPSubnets yet")?;
        let node_name = network.hostname.to_ascii_lowercase();
        let here = endpoint_host_port(&cluster.control_plane_endpoint)
            .filter(|(host, _)| is_this_node(host, &node_name, network));
        let port = here.map_or(API_SERVER_PORT, |(_, port)| port);
        let sans = &cluster.api_server_cert_sans;
        Ok(Self {
            endpoint_is_here: here.is_some(),
            named_in_sans: sans.iter().any(|name| is_this_node(name, &node_name, network)),
            cluster,
            secrets,
            manifests: config.manifests.clone(),
            node_name,
            address,
            port,
        })
    }

    /// The first address of the first Service range: the API server's own Service.
    #[must_use]
    pub fn api_service_address(&self) -> Option<IpAddr> {
        self.cluster.service_cidrs.first().and_then(|cidr| nth_address(cidr, 1))
    }

    /// The tenth address of the first Service range: the cluster's DNS server.
    #[must_use]
    pub fn dns_address(&self) -> Option<IpAddr> {
        self.cluster.service_cidrs.first().and_then(|cidr| nth_address(cidr, 10))
    }

    /// Loopback of the node address's family.
    #[must_use]
    pub const fn loopback(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        }
    }

    /// URL of this node's own API server.
    #[must_use]
    pub fn local_url(&self) -> String {
        format!("https://{}", socket(self.address, self.port))
    }
}

/// `address:port` with brackets around IPv6.
#[must_use]
pub fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The node's address: the first in one of the wanted ranges, otherwise the first.
#[must_use]
pub fn node_address(subnets: &[IpNet], network: &NodeNetwork) -> Option<IpAddr> {
    network
        .addresses
        .iter()
        .map(|address| address.address.addr())
        .find(|address| subnets.is_empty() || subnets.iter().any(|subnet| subnet.contains(address)))
}

/// Host (without brackets) and port of an `https://host:port` URL.
#[must_use]
pub fn endpoint_host_port(url: &str) -> Option<(&str, u16)> {
    let rest = url.strip_prefix("https://")?.split('/').next()?;
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            Some((host.trim_matches(['[', ']']), port.parse().ok()?))
        }
        _ => Some((rest.trim_matches(['[', ']']), 443)),
    }
}

fn is_this_node(host: &str, node_name: &str, network: &NodeNetwork) -> bool {
    host.parse::<IpAddr>().map_or_else(
        |_| host.eq_ignore_ascii_case(node_name),
        |address| network.addresses.iter().any(|a| a.address.addr() == address),
    )
}

fn nth_address(cidr: &IpNet, n: u32) -> Option<IpAddr> {
    let address = match cidr.network() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).checked_add(n)?.into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).checked_add(n.into())?.into()),
    };
    cidr.contains(&address).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, input, network};

    #[test]
    fn the_node_address_is_the_first_in_the_wanted_ranges() {
        let network = network(&["10.0.2.15/24", "10.5.0.10/24"]);
        assert_eq!(node_address(&[], &network), "10.0.2.15".parse().ok());
        assert_eq!(node_address(&["10.5.0.0/16".parse().unwrap()], &network), "10.5.0.10".parse().ok());
        assert_eq!(node_address(&["192.168.0.0/16".parse().unwrap()], &network), None);
    }

    #[test]
    fn services_have_the_conventional_addresses() {
        let input = input();
        assert_eq!(input.api_service_address(), "10.96.0.1".parse().ok());
        assert_eq!(input.dns_address(), "10.96.0.10".parse().ok());
    }

    #[test]
    fn the_port_follows_the_endpoint_only_where_it_names_this_node() {
        let mut config = config();
        let network = network(&["10.5.0.10/24"]);
        for (endpoint, port) in [
            ("https://10.5.0.10:8443", 8443),
            ("https://CP1:443", 443),
            ("https://balancer.example:443", 6443),
        ] {
            config.cluster.as_mut().unwrap().control_plane_endpoint = endpoint.into();
            assert_eq!(Input::new(&config, &network).unwrap().port, port, "{endpoint}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let (good, network) = (config(), network(&["10.5.0.10/24"]));
        let mut worker = good.clone();
        worker.machine.role = Role::Worker;
        let mut keyless = good.clone();
        keyless.cluster.as_mut().unwrap().etcd_ca = None;
        for (config, word) in [(worker, "role"), (keyless, "etcdCA")] {
            assert!(Input::new(&config, &network).unwrap_err().to_string().contains(word));
        }
        let nowhere = NodeNetwork { addresses: Vec::new(), ..network };
        assert!(Input::new(&good, &nowhere).unwrap_err().to_string().contains("address"));
    }
}
