use super::{Issue, issue, link_match};
use crate::config::{Address, Link, Route};

pub fn link(link: &Link, issues: &mut Vec<Issue>) {
    link_match(&link.link, issues);
    if link.mtu.is_some_and(|mtu| !(576..=65_535).contains(&mtu)) {
        issues.push(issue("mtu", "no usable MTU", "use 576 to 65535 bytes; Ethernet's is 1500"));
    }
}

pub fn address(address: &Address, issues: &mut Vec<Issue>) {
    link_match(&address.link, issues);
    let net = address.address;
    let hosts = net.prefix_len() < net.max_prefix_len() - 1;
    if net.addr().is_unspecified() || net.addr().is_multicast() || net.addr().is_loopback() {
        issues.push(issue(
            "address",
            format!("{net} cannot be a link's address"),
            "use a unicast address of the network",
        ));
    } else if hosts && net.addr().is_ipv4() && (net.addr() == net.network() || net.addr() == net.broadcast())
    {
        issues.push(issue(
            "address",
            format!("{net} is the network's own or its broadcast address"),
            "use an address of a host",
        ));
    }
}

pub fn route(route: &Route, issues: &mut Vec<Issue>) {
    link_match(&route.link, issues);
    let destination = route.destination;
    if destination.addr() != destination.network() {
        issues.push(issue(
            "destination",
            format!("{destination} has host bits"),
            format!("write {}", destination.trunc()),
        ));
    }
    if route.gateway.is_some_and(|gateway| gateway.is_ipv4() != destination.addr().is_ipv4()) {
        issues.push(issue(
            "gateway",
            "gateway and destination are of different IP families",
            "use an IPv4 gateway for IPv4 and an IPv6 gateway for IPv6",
        ));
    }
}
