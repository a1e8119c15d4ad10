//! What other programs read of the network: /etc/resolv.conf, /etc/hosts, /etc/hostname (links into /run/pintle/etc) and network.json.
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use machine::network::{NodeAddress, NodeNetwork};
use node_kit::files::{Durability, replace_changed};

use super::observed::Observed;
use super::spec::Spec;

/// The resolver library reads them in every process, and net and api are not root.
const FOR_ALL: u32 = 0o644;
/// Services that read the network are root.
const FOR_ROOT: u32 = 0o600;

/// resolv.conf; the resolver library reads three name servers at most.
pub fn resolv_conf(resolvers: &[IpAddr], search: &[String]) -> String {
    let mut text = String::new();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    for resolver in resolvers.iter().take(3) {
        let _ = writeln!(text, "nameserver {resolver}");
    }
    text
}

/// hosts: localhost, and the node's name at its first address.
pub fn hosts(network: &NodeNetwork) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let own =
        network.addresses.first().map_or_else(|| "127.0.1.1".to_owned(), |a| a.address.addr().to_string());
    let short = network.hostname.split('.').next().unwrap_or_default();
    let alias = if short == network.hostname { String::new() } else { format!(" {short}") };
    let _ = writeln!(text, "{own} {}{alias}", network.hostname);
    text
}

/// What other processes are told. Only links that are ours count: a pod bridge's address is no address of the node.
pub fn node_network(spec: &Spec, observed: &Observed, ready: bool) -> NodeNetwork {
    let first = observed.default_link();
    let mut links: Vec<_> =
        observed.links.values().filter(|link| link.up && spec.links.contains_key(&link.name)).collect();
    links.sort_by_key(|link| (Some(link.index) != first, link.index));
    let addresses = links.iter().flat_map(|link| {
        let ours = |address: &&ipnet::IpNet| !is_local(address.addr());
        link.addresses
            .iter()
            .filter(ours)
            .map(|address| NodeAddress { link: link.name.clone(), address: *address })
    });
    NodeNetwork {
        hostname: spec.hostname.clone(),
        addresses: addresses.collect(),
        resolvers: spec.resolvers.iter().map(ToString::to_string).collect(),
        search_domains: spec.search.clone(),
        ready,
    }
}

/// Loopback and link-local addresses.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

/// Writes all files below `run` (/run/pintle), each replaced as a whole.
pub fn write(run: &Path, spec: &Spec, network: &NodeNetwork) -> io::Result<()> {
    let etc = run.join("etc");
    std::fs::create_dir_all(&etc)?;
    let resolvers = resolv_conf(&spec.resolvers, &spec.search);
    replace(&etc.join("resolv.conf"), resolvers.as_bytes(), FOR_ALL)?;
    replace(&etc.join("hosts"), hosts(network).as_bytes(), FOR_ALL)?;
    replace(&etc.join("hostname"), format!("{}\n", network.hostname).as_bytes(), FOR_ALL)?;
    replace(&run.join("network.json"), &serde_json::to_vec_pretty(network)?, FOR_ROOT)
}

/// Leaves a file that is right already alone, so that nobody who watches it wakes for nothing.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_changed(path, bytes, mode, Durability::Process)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Link, Route};
    use super::super::spec::LinkSpec;
    use super::*;

    #[test]
    fn the_link_of_the_default_route_comes_first_and_the_pod_bridge_does_not_count() {
        let link = |index, name: &str, addresses: &[&str]| Link {
            index,
            name: name.into(),
            mac: String::new(),
            mtu: 1500,
            up: true,
            carrier: true,
            physical: true,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        let links = [
            link(1, "lo", &["127.0.0.1/8"]),
            link(2, "eth0", &["10.5.0.1/24", "fe80::1/64"]),
            link(3, "eth1", &["10.0.2.15/24"]),
            link(4, "pods0", &["10.244.0.1/24"]),
        ];
        let default = Route { link: 3, to: "0.0.0.0/0".parse().unwrap(), via: None, metric: 0 };
        let observed =
            Observed { links: links.into_iter().map(|l| (l.index, l)).collect(), routes: vec![default] };
        let up = LinkSpec { up: true, mtu: None };
        let spec = Spec {
            hostname: "n1.example".into(),
            links: [("eth0".to_owned(), up), ("eth1".to_owned(), up)].into(),
            ..Spec::default()
        };
        let network = node_network(&spec, &observed, true);
        let shown: Vec<_> = network.addresses.iter().map(|a| format!("{} {}", a.link, a.address)).collect();
        assert_eq!(shown, ["eth1 10.0.2.15/24", "eth0 10.5.0.1/24"]);
        assert!(hosts(&network).ends_with("10.0.2.15 n1.example n1\n"));
    }

    #[test]
    fn resolv_conf_has_what_resolvers_read() {
        let resolvers: Vec<IpAddr> = (1..=4).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let text = resolv_conf(&resolvers, &["a.example".into(), "b.example".into()]);
        assert_eq!(
            text,
            "search a.example b.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
        );
    }

    #[test]
    fn files_appear_whole_and_stay_when_nothing_changed() {
        let run = std::env::temp_dir().join(format!("pintle-files-{}", std::process::id()));
        let spec = Spec { hostname: "n1".into(), ..Spec::default() };
        let network = node_network(&spec, &Observed::default(), false);
        std::fs::create_dir_all(&run).unwrap();
        write(&run, &spec, &network).unwrap();
        let read: NodeNetwork =
            serde_json::from_slice(&std::fs::read(run.join("network.json")).unwrap()).unwrap();
        assert_eq!(read, network);
        let mode = |name: &str| {
            let found = std::fs::metadata(run.join(name)).unwrap();
            std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777
        };
        assert_eq!((mode("network.json"), mode("etc/resolv.conf"), mode("etc/hosts")), (0o600, 0o644, 0o644));
        let inode =
            |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(run.join(name)).unwrap());
        let before = inode("network.json");
        write(&run, &spec, &network).unwrap();
        assert_eq!(inode("network.json"), before);
        std::fs::remove_dir_all(&run).unwrap();
    }
}
