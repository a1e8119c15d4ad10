//! What the machine is told to be and where it is: the active machine config and the network, as a watched snapshot.
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use machine::config::{Cluster, MachineConfig, NodeAgent, Role};
use machine::network::NodeNetwork;
use node_kit::tasks::essential;
use tokio::sync::watch;

use node_kit::folder::Folder;

/// One consistent reading of machine config and network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub machine: MachineConfig,
    pub network: NodeNetwork,
}

impl Settings {
    /// Reads both files that init keeps in [`machine::paths::RUN`].
    ///
    /// # Errors
    /// When a file cannot be read or parsed; the message names it.
    pub fn read() -> anyhow::Result<Self> {
        let path = machine::paths::ACTIVE_CONFIG;
        let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        let machine = machine::config::parse(path, &text)
            .map_err(|faults| anyhow!("{}", faults.first().map(ToString::to_string).unwrap_or_default()))?;
        let path = machine::paths::NETWORK_STATUS;
        let text = std::fs::read(path).with_context(|| format!("read {path}"))?;
        let network = serde_json::from_slice(&text).with_context(|| format!("parse {path}"))?;
        Ok(Self { machine, network })
    }

    /// The node's name: the host name in lower case.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.machine.machine.hostname.as_ref().unwrap_or(&self.network.hostname).trim().to_lowercase()
    }

    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.machine.cluster.as_ref()
    }

    #[must_use]
    pub fn node_agent(&self) -> &NodeAgent {
        &self.machine.node_agent
    }

    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.machine.machine.role == Role::ControlPlane
    }

    /// The node's InternalIPs, at most one per family, the first being the node's own: addresses within `nodeIPSubnets`, or else
    /// the address of the default route and the first one of the other family.
    #[must_use]
    pub fn node_ips(&self) -> Vec<IpAddr> {
        let subnets = &self.node_agent().node_ip_subnets;
        let all: Vec<IpAddr> = self.network.addresses.iter().map(|a| a.address.addr()).collect();
        let mut chosen: Vec<IpAddr> = Vec::new();
        let mut take = |ip: &IpAddr| {
            if !chosen.iter().any(|c| c.is_ipv4() == ip.is_ipv4()) {
                chosen.push(*ip);
            }
        };
        if subnets.is_empty() {
            all.iter().for_each(&mut take);
        }
        for subnet in subnets {
            all.iter().filter(|ip| subnet.contains(*ip)).for_each(&mut take);
        }
        chosen
    }

    /// The address of the cluster's DNS Service: the tenth one of each Service range.
    #[must_use]
    pub fn cluster_dns(&self) -> Vec<String> {
        self.cluster().map_or_else(Vec::new, |c| c.service_cidrs.iter().filter_map(tenth).collect())
    }
}

fn tenth(range: &IpNet) -> Option<String> {
    match range.network() {
        IpAddr::V4(base) => u32::from(base).checked_add(10).map(|n| std::net::Ipv4Addr::from(n).to_string()),
        IpAddr::V6(base) => u128::from(base).checked_add(10).map(|n| std::net::Ipv6Addr::from(n).to_string()),
    }
}

/// Reads the settings and follows their changes; a reading that fails keeps the last good one.
///
/// # Errors
/// When the first reading fails, or the folder cannot be watched.
pub fn follow() -> anyhow::Result<watch::Receiver<Arc<Settings>>> {
    let mut changes = Folder::watch(machine::paths::RUN);
    let (tx, rx) = watch::channel(Arc::new(Settings::read()?));
    essential("settings", async move {
        loop {
            changes.changed().await;
            if tx.is_closed() {
                return;
            }
            match Settings::read() {
                Ok(new) => {
                    tx.send_if_modified(|old| {
                        let differs = **old != new;
                        if differs {
                            *old = Arc::new(new);
                        }
                        differs
                    });
                }
                Err(error) => tracing::warn!("settings keep their last state: {error:#}"),
            }
        }
    });
    Ok(rx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::network::NodeAddress;

    fn settings(addresses: &[&str], subnets: &[&str]) -> Settings {
        let mut settings = Settings::default();
        settings.network.addresses = addresses
            .iter()
            .map(|a| NodeAddress { link: "eth0".into(), address: a.parse().unwrap() })
            .collect();
        settings.machine.node_agent.node_ip_subnets = subnets.iter().map(|s| s.parse().unwrap()).collect();
        settings
    }

    #[test]
    fn the_default_routes_address_is_the_nodes_own() {
        let s = settings(&["10.0.0.5/24", "192.168.1.2/24", "fd00::5/64"], &[]);
        assert_eq!(s.node_ips(), ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    }

    #[test]
    fn subnets_choose_among_addresses() {
        let s = settings(&["10.0.0.5/24", "192.168.1.2/24"], &["192.168.0.0/16"]);
        assert_eq!(s.node_ips(), ["192.168.1.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn dns_is_the_tenth_service_address() {
        let mut s = settings(&[], &[]);
        s.machine.cluster =
            Some(Cluster { service_cidrs: vec!["10.96.0.0/12".parse().unwrap()], ..Default::default() });
        assert_eq!(s.cluster_dns(), ["10.96.0.10"]);
    }
}
