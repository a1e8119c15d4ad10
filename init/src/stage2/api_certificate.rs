//! The machine API's files: PID 1 issues them, since the API process may not hold the machine CA's key.
use std::path::Path;

use anyhow::Result;
use machine::config::MachineConfig;
use machine::network::{NodeAddress, NodeNetwork};
use machine::paths::API_PKI;
use machine::socket::NetworkStatus;
use machine::socket::service_action::Action;

use crate::node::Machine;

/// Issues a new serving certificate whenever the machine CA, the names or the addresses that it speaks for have changed, and starts the
/// API anew with it.
pub async fn follow(machine: Machine) -> Result<()> {
    let mut config = machine.config.subscribe();
    let mut network = machine.network.subscribe();
    let mut issued = None;
    loop {
        let active = config.borrow_and_update().clone();
        let node = addresses(&network.borrow_and_update());
        let wanted = active.map(|active| active.config.machine.clone()).filter(|own| own.ca.is_some());
        if let Some(own) = wanted
            && !node.addresses.is_empty()
            && issued.as_ref() != Some(&(own.clone(), node.clone()))
        {
            let source = MachineConfig { machine: own.clone(), ..MachineConfig::default() };
            match crate::api::prepare_pki(&source, &node, Path::new(API_PKI)) {
                Ok(()) => {
                    let again = issued.replace((own, node)).is_some();
                    machine.supervisor.set_facts(|facts| facts.api_certificate = true);
                    if again {
                        machine.supervisor.act("api", Action::Restart).await;
                    }
                }
                Err(error) => machine.condition("ApiCertificate", false, "Failed", &format!("{error:#}")),
            }
        }
        tokio::select! {
            changed = config.changed() => changed?,
            changed = network.changed() => changed?,
        }
    }
}

/// What the certificate speaks for: the host name and the addresses of links that are up, sorted, so that an order of links is no change.
fn addresses(status: &NetworkStatus) -> NodeNetwork {
    let mut addresses: Vec<NodeAddress> = status
        .links
        .iter()
        .filter(|link| link.up && link.name != "lo")
        .flat_map(|link| {
            let parse =
                |text: &String| Some(NodeAddress { link: link.name.clone(), address: text.parse().ok()? });
            link.addresses.iter().filter_map(parse)
        })
        .filter(|own| !matches!(own.address.addr(), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    addresses.sort_by(|a, b| (&a.link, a.address).cmp(&(&b.link, b.address)));
    NodeNetwork { hostname: status.hostname.clone(), addresses, ..NodeNetwork::default() }
}

#[cfg(test)]
mod tests {
    use machine::socket::Link;

    use super::*;

    #[test]
    fn the_certificate_speaks_for_links_that_are_up() {
        let link = |name: &str, up, addresses: &[&str]| Link {
            name: name.into(),
            up,
            addresses: addresses.iter().map(|a| (*a).into()).collect(),
            ..Link::default()
        };
        let status = NetworkStatus {
            hostname: "n".into(),
            links: vec![
                link("lo", true, &["127.0.0.1/8"]),
                link("eth1", true, &["10.5.0.10/24", "fe80::1/64"]),
                link("eth0", false, &["10.0.2.15/24"]),
            ],
            ..NetworkStatus::default()
        };
        let node = addresses(&status);
        let found: Vec<_> = node.addresses.iter().map(|a| a.address.to_string()).collect();
        assert_eq!(found, ["10.5.0.10/24"]);
    }
}
