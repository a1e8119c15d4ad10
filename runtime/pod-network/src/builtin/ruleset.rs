//! The nftables table `inet pintle` as text for `nft -f -`: masquerade and host ports.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::record::Record;
use super::{BRIDGE, PortMapping, ipam};
use crate::Protocol;

/// The whole table, which replaces an older one in a single transaction. `node` are the ranges of this node's pods, `cluster` those of
/// all pods: traffic between pods keeps its addresses, traffic from pods to elsewhere gets the node's.
pub fn table(node: &[IpNet], cluster: &[IpNet], records: &BTreeMap<String, Record>) -> String {
    let mut text = String::from("add table inet pintle\ndelete table inet pintle\ntable inet pintle {\n");
    for (family, kind) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        let of_family = |nets: &[IpNet]| {
            let nets: Vec<_> = nets
                .iter()
                .filter(|net| net.addr().is_ipv4() == (family == "4"))
                .map(ToString::to_string)
                .collect();
            if nets.is_empty() { String::new() } else { format!("; elements = {{ {} }}", nets.join(", ")) }
        };
        let _ = write!(
            text,
            "  set node{family} {{ type {kind}; flags interval; auto-merge{} }}\n  \
             set cluster{family} {{ type {kind}; flags interval; auto-merge{} }}\n  \
             map ports{family} {{ type inet_proto . inet_service : {kind} . inet_service; }}\n  \
             map ip_ports{family} {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; }}\n  \
             set own{family} {{ type {kind} . {kind}; }}\n  \
             set sources{family} {{ type {kind} . ether_addr; }}\n",
            of_family(node),
            of_family(cluster),
        );
    }
    let _ = write!(
        text,
        "  chain host_ports {{
    dnat ip to ip daddr . meta l4proto . th dport map @ip_ports4
    dnat ip to meta l4proto . th dport map @ports4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ip_ports6
    dnat ip6 to meta l4proto . th dport map @ports6
  }}
  # With route_localnet, which host ports on 127.0.0.1 need, pods could otherwise reach what listens on the node's loopback.
  # A pod speaks for itself only; the bridge has seen to it that its hardware address is its own.
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{BRIDGE}\" ip daddr 127.0.0.0/8 drop
    iifname \"{BRIDGE}\" ip saddr . ether saddr != @sources4 drop
    iifname \"{BRIDGE}\" ip6 saddr != {{ ::, fe80::/10 }} ip6 saddr . ether saddr != @sources6 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local goto host_ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local goto host_ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{BRIDGE}\" ip saddr 127.0.0.0/8 masquerade fully-random
    oifname \"{BRIDGE}\" ip saddr . ip daddr @own4 masquerade fully-random
    oifname \"{BRIDGE}\" ip6 saddr . ip6 daddr @own6 masquerade fully-random
    oifname {{ \"{BRIDGE}\", \"lo\" }} accept
    ip saddr @node4 ip daddr != @cluster4 ip daddr != 224.0.0.0/4 masquerade fully-random
    ip6 saddr @node6 ip6 daddr != @cluster6 ip6 daddr != ff00::/8 masquerade fully-random
  }}
}}
"
    );
    for record in records.values() {
        for (address, hardware) in sources(record) {
            let (family, hardware) = (family(address), hardware.map(|byte| format!("{byte:02x}")).join(":"));
            let _ = writeln!(text, "add element inet pintle sources{family} {{ {address} . {hardware} }}");
        }
        text.push_str(&elements("add", record));
    }
    text
}

/// From where a pod may send: its addresses, each with the hardware address of its link.
pub fn sources(record: &Record) -> Vec<(IpAddr, [u8; 6])> {
    let hardware = record.addresses.first().map(|first| ipam::hardware_address(*first));
    record.addresses.iter().copied().zip(hardware.into_iter().cycle()).collect()
}

/// The commands that add or delete (`verb`) one pod's elements; empty for a pod without host ports.
pub fn elements(verb: &str, record: &Record) -> String {
    let mut text = String::new();
    let mut forwarded = false;
    for port in &record.ports {
        for address in &record.addresses {
            if let Some(element) = element(port, *address) {
                let _ = writeln!(text, "{verb} element inet pintle {element}");
                forwarded = true;
            }
        }
    }
    if forwarded {
        for address in &record.addresses {
            let family = family(*address);
            let _ = writeln!(text, "{verb} element inet pintle own{family} {{ {address} . {address} }}");
        }
    }
    text
}

/// What leads to a pod's UDP host ports, once for each family it has: whether IPv4, the port, and the one address of the
/// node that has it, if not all have.
pub fn udp_destinations(record: &Record) -> Vec<(bool, u16, Option<IpAddr>)> {
    let udp = record.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let of_pod = udp.flat_map(|port| record.addresses.iter().map(move |address| (port, address.is_ipv4())));
    let all =
        of_pod.map(|(port, ipv4)| (ipv4, port.host_port, port.host_ip.filter(|ip| !ip.is_unspecified())));
    all.filter(|(ipv4, _, host_ip)| host_ip.is_none_or(|ip| ip.is_ipv4() == *ipv4)).collect()
}

/// The IP address in a socket's address.
pub fn address(of: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = of.as_sockaddr_in().map(|of| of.ip().into());
    v4.or_else(|| of.as_sockaddr_in6().map(|of| of.ip().into()))
}

fn element(port: &PortMapping, pod: IpAddr) -> Option<String> {
    let family = family(pod);
    let PortMapping { protocol, host_port, container_port, host_ip } = port;
    let (map, host) = match host_ip {
        Some(ip) if ip.is_ipv4() != pod.is_ipv4() => return None,
        Some(ip) if !ip.is_unspecified() => ("ip_ports", format!("{ip} . ")),
        _ => ("ports", String::new()),
    };
    let protocol = protocol.name();
    Some(format!("{map}{family} {{ {host}{protocol} . {host_port} : {pod} . {container_port} }}"))
}

fn family(address: IpAddr) -> char {
    if address.is_ipv4() { '4' } else { '6' }
}

/// The first host port of `wanted` that another pod has, with that pod's sandbox id.
pub fn conflict<'a>(
    records: &'a BTreeMap<String, Record>,
    wanted: &[PortMapping],
) -> Option<(PortMapping, &'a str)> {
    let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    wanted.iter().find_map(|want| {
        let (id, _) = records.iter().find(|(_, record)| {
            record.ports.iter().any(|port| {
                port.protocol == want.protocol
                    && port.host_port == want.host_port
                    // Of one that holds every address and one that names an address the latter wins, which is no conflict.
                    && (port.host_ip == want.host_ip || (any(port.host_ip) && any(want.host_ip)))
            })
        })?;
        Some((*want, id.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            protocol,
            container_port: 8080,
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    fn record(ports: Vec<PortMapping>) -> Record {
        Record { addresses: vec!["10.244.1.7".parse().unwrap(), "fd00:1::7".parse().unwrap()], ports }
    }

    #[test]
    fn a_pod_without_host_ports_needs_no_command() {
        assert_eq!(elements("add", &record(vec![])), "");
    }

    #[test]
    fn a_host_port_on_every_address_is_in_both_families() {
        let text = elements("add", &record(vec![port(Protocol::Udp, 53, None)]));
        assert!(text.contains("add element inet pintle ports4 { udp . 53 : 10.244.1.7 . 8080 }\n"), "{text}");
        assert!(text.contains("add element inet pintle ports6 { udp . 53 : fd00:1::7 . 8080 }\n"), "{text}");
        assert!(text.contains("own4 { 10.244.1.7 . 10.244.1.7 }"), "{text}");
    }

    #[test]
    fn a_host_address_narrows_to_it_and_its_family() {
        let text = elements("delete", &record(vec![port(Protocol::Sctp, 53, Some("192.0.2.1"))]));
        assert!(text.starts_with(
            "delete element inet pintle ip_ports4 { 192.0.2.1 . sctp . 53 : 10.244.1.7 . 8080 }\n"
        ));
        assert!(!text.contains("ports6"), "{text}");
    }

    #[test]
    fn only_udp_is_forgotten_and_only_where_the_port_was_mapped() {
        let ports = vec![
            port(Protocol::Tcp, 80, None),
            port(Protocol::Udp, 53, None),
            port(Protocol::Udp, 54, Some("192.0.2.1")),
            port(Protocol::Udp, 55, Some("::")),
        ];
        let found = udp_destinations(&record(ports));
        let one = Some("192.0.2.1".parse().unwrap());
        let wanted =
            [(true, 53, None), (false, 53, None), (true, 54, one), (true, 55, None), (false, 55, None)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_taken_host_port_names_its_holder() {
        let records = BTreeMap::from([("a".into(), record(vec![port(Protocol::Tcp, 80, None)]))]);
        let taken = |wanted| conflict(&records, &[wanted]).map(|(_, id)| id.to_owned());
        assert_eq!(taken(port(Protocol::Tcp, 80, Some("0.0.0.0"))), Some("a".into()));
        assert_eq!(taken(port(Protocol::Udp, 80, None)), None);
        assert_eq!(taken(port(Protocol::Tcp, 80, Some("127.0.0.1"))), None);
    }

    #[test]
    fn the_table_holds_the_ranges_and_every_pod() {
        let records = BTreeMap::from([("a".into(), record(vec![port(Protocol::Tcp, 80, None)]))]);
        let text = table(&["10.244.1.0/24".parse().unwrap()], &["10.244.0.0/16".parse().unwrap()], &records);
        assert!(
            text.contains(
                "set node4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.244.1.0/24 } }"
            ),
            "{text}"
        );
        assert!(text.contains("ports4 { tcp . 80 : 10.244.1.7 . 8080 }"), "{text}");
        // One link, one hardware address.
        for source in
            ["sources4 { 10.244.1.7 . 0a:58:0a:f4:01:07 }", "sources6 { fd00:1::7 . 0a:58:0a:f4:01:07 }"]
        {
            assert!(text.contains(source), "{text}");
        }
    }
}
