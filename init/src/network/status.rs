//! Whether the network is ready, and what it waits for.
use machine::config::MachineConfig;
use machine::network::NodeNetwork;
use machine::socket;

use super::observed::Observed;
use super::spec::Spec;

/// What readiness waits for; none: the network is ready. Ready means an address, a way to the control plane (or a default route), and
/// name servers where the control plane is given by name.
pub fn waiting_for(
    config: &MachineConfig,
    spec: &Spec,
    network: &NodeNetwork,
    observed: &Observed,
) -> Option<String> {
    if network.addresses.is_empty() {
        let without_carrier: Vec<_> = spec
            .links
            .keys()
            .filter(|name| observed.link(name).is_some_and(|link| !link.carrier))
            .map(String::as_str)
            .collect();
        return Some(if spec.links.is_empty() {
            "a network device (none has been found)".into()
        } else if without_carrier.len() == spec.links.len() {
            format!("a carrier on {}", without_carrier.join(", "))
        } else if spec.dhcp.is_empty() {
            "an address".into()
        } else {
            format!("a DHCP lease on {}", spec.dhcp.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        });
    }
    let host = config.cluster.as_ref().and_then(|cluster| host(&cluster.control_plane_endpoint));
    let default_route = observed.default_link().is_some();
    match host.map(|host| host.parse::<std::net::IpAddr>().map_err(|_| host)) {
        Some(Ok(address)) => {
            let routed = observed.routes.iter().any(|route| route.to.contains(&address));
            let own = network.addresses.iter().any(|own| own.address.contains(&address));
            (!routed && !own).then(|| format!("a route to the control plane at {address}"))
        }
        Some(Err(name)) if network.resolvers.is_empty() => Some(format!("name servers to find {name}")),
        Some(Err(_)) | None => (!default_route).then(|| "a default route".into()),
    }
}

/// The host of an `https://host:port` URL, without brackets.
fn host(url: &str) -> Option<&str> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next()?;
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next();
    }
    authority.rsplit_once(':').map_or(Some(authority), |(host, _)| Some(host)).filter(|host| !host.is_empty())
}

/// The status that the machine socket reports.
pub fn report(
    network: &NodeNetwork,
    observed: &Observed,
    waiting_for: Option<String>,
) -> socket::NetworkStatus {
    let links =
        observed.links.values().filter(|link| link.physical || link.name == "lo").map(|link| socket::Link {
            name: link.name.clone(),
            mac: link.mac.clone(),
            mtu: link.mtu,
            up: link.up && link.carrier,
            addresses: link.addresses.iter().map(ToString::to_string).collect(),
        });
    socket::NetworkStatus {
        hostname: network.hostname.clone(),
        links: links.collect(),
        resolvers: network.resolvers.clone(),
        search_domains: network.search_domains.clone(),
        ready: waiting_for.is_none(),
        waiting_for: waiting_for.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_endpoints() {
        assert_eq!(host("https://10.5.0.10:6443"), Some("10.5.0.10"));
        assert_eq!(host("https://[fd00::1]:6443/"), Some("fd00::1"));
        assert_eq!(host("https://api.example:6443"), Some("api.example"));
        assert_eq!(host(""), None);
    }

    #[test]
    fn a_control_plane_on_the_own_network_needs_no_default_route_and_no_name_server() {
        let mut config =
            MachineConfig { cluster: Some(machine::config::Cluster::default()), ..MachineConfig::default() };
        config.cluster.as_mut().unwrap().control_plane_endpoint = "https://10.5.0.10:6443".into();
        let mut network = NodeNetwork::default();
        let wait = |config: &MachineConfig, network: &NodeNetwork| {
            waiting_for(config, &Spec::default(), network, &Observed::default())
        };
        assert_eq!(wait(&config, &network), Some("a network device (none has been found)".into()));
        network.addresses.push(machine::network::NodeAddress {
            link: "eth0".into(),
            address: "10.5.0.11/24".parse().unwrap(),
        });
        assert_eq!(wait(&config, &network), None);
        config.cluster.as_mut().unwrap().control_plane_endpoint = "https://192.0.2.1:6443".into();
        assert_eq!(wait(&config, &network), Some("a route to the control plane at 192.0.2.1".into()));
        config.cluster.as_mut().unwrap().control_plane_endpoint = "https://api.example:6443".into();
        assert_eq!(wait(&config, &network), Some("name servers to find api.example".into()));
    }
}
