use std::net::IpAddr;

use ipnet::IpNet;

use super::{Issue, authority, is_dns_name, issue};
use crate::config::{Cluster, Component};
use crate::pki;

pub fn cluster(cluster: &Cluster, issues: &mut Vec<Issue>) {
    super::label("name", &cluster.name, issues);
    if let Some(fault) = endpoint_fault(&cluster.control_plane_endpoint) {
        issues.push(issue(
            "controlPlaneEndpoint",
            fault,
            "write it as https://HOST:PORT, such as https://10.5.0.10:6443",
        ));
    }
    if !pki::is_bootstrap_token(&cluster.bootstrap_token) {
        issues.push(issue(
            "bootstrapToken",
            "no bootstrap token",
            "it has the form xxxxxx.yyyyyyyyyyyyyyyy (lower-case letters and digits); `pintle gen secrets` makes one",
        ));
    }
    if !is_dns_name(&cluster.dns_domain) {
        issues.push(issue(
            "dnsDomain",
            format!("{:?} is no DNS name", cluster.dns_domain),
            "use one such as cluster.local",
        ));
    }
    ranges("podCIDRs", &cluster.pod_cidrs, pod_fault, issues);
    ranges("serviceCIDRs", &cluster.service_cidrs, service_fault, issues);
    for (i, pods) in cluster.pod_cidrs.iter().enumerate() {
        if let Some(services) = cluster.service_cidrs.iter().find(|services| overlap(pods, services)) {
            issues.push(issue(
                format!("podCIDRs[{i}]"),
                format!("{pods} overlaps the Services' {services}"),
                "choose ranges that have no address in common",
            ));
        }
    }
    authority("ca", &cluster.ca, false, issues);
    for (field, ca) in [
        ("etcdCA", &cluster.etcd_ca),
        ("frontProxyCA", &cluster.front_proxy_ca),
        ("kubeletServingCA", &cluster.kubelet_serving_ca),
    ] {
        if let Some(ca) = ca {
            authority(field, ca, true, issues);
        }
    }
    for (i, name) in cluster.api_server_cert_sans.iter().enumerate() {
        san(&format!("apiServerCertSANs[{i}]"), name, issues);
    }
    components(cluster, issues);
}

/// A name or address in a certificate.
pub fn san(field: &str, name: &str, issues: &mut Vec<Issue>) {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    if name.parse::<IpAddr>().is_err() && !is_dns_name(bare) {
        issues.push(issue(
            field,
            format!("{name:?} is neither a DNS name nor an address"),
            "write it without scheme and port",
        ));
    }
}

pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn ranges(field: &str, cidrs: &[IpNet], fault: fn(&IpNet) -> Option<String>, issues: &mut Vec<Issue>) {
    if cidrs.is_empty() {
        issues.push(issue(
            field,
            "no range",
            "leave the field out for the default, or give one range per IP family",
        ));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        let here = || format!("{field}[{i}]");
        if cidr.addr() != cidr.network() {
            issues.push(issue(here(), format!("{cidr} has host bits"), format!("write {}", cidr.trunc())));
        }
        if let Some(message) = fault(cidr) {
            issues.push(issue(here(), message, "use a larger or smaller range"));
        }
        if cidrs[..i].iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
            issues.push(issue(
                here(),
                "a second range of the same IP family",
                "give at most one IPv4 and one IPv6 range",
            ));
        }
    }
}

/// Each node gets a /24 (IPv4) or a /64 (IPv6) of it: kube-controller-manager's defaults.
fn pod_fault(cidr: &IpNet) -> Option<String> {
    let (largest, smallest) = if cidr.addr().is_ipv4() { (8, 24) } else { (48, 64) };
    (!(largest..=smallest).contains(&cidr.prefix_len())).then(|| {
        format!("{cidr} cannot be divided among nodes; its prefix must be /{largest} to /{smallest}")
    })
}

/// kube-apiserver takes at most 20 bits, and the DNS server is the tenth address.
fn service_fault(cidr: &IpNet) -> Option<String> {
    let (largest, smallest) = if cidr.addr().is_ipv4() { (12, 28) } else { (108, 124) };
    (!(largest..=smallest).contains(&cidr.prefix_len()))
        .then(|| format!("{cidr} is no range for Services; its prefix must be /{largest} to /{smallest}"))
}

fn endpoint_fault(url: &str) -> Option<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Some(format!("{url:?} does not start with https://"));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => return Some(format!("{url:?} has no port")),
    };
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = bare.map_or_else(
            || host.parse::<std::net::Ipv4Addr>().is_ok() || is_dns_name(&host.to_lowercase()),
            |inner| inner.parse::<std::net::Ipv6Addr>().is_ok(),
        );
        (!good).then(|| format!("{host:?} is no host name or address"))
    } else {
        Some(format!("{port:?} is no port"))
    }
}

fn components(cluster: &Cluster, issues: &mut Vec<Issue>) {
    let required: [(&str, &Component); 4] = [
        ("etcd", &cluster.etcd),
        ("apiServer", &cluster.api_server),
        ("controllerManager", &cluster.controller_manager),
        ("scheduler", &cluster.scheduler),
    ];
    for (name, component) in required {
        if component.disabled {
            issues.push(issue(
                format!("{name}.disabled"),
                "a cluster cannot do without this component",
                "remove the line; only proxy and dns can be disabled",
            ));
        }
    }
    for (name, component) in required.into_iter().chain([("proxy", &cluster.proxy), ("dns", &cluster.dns)]) {
        for flag in component.extra_args.keys().filter(|flag| flag.starts_with('-') || flag.contains('=')) {
            issues.push(issue(
                format!("{name}.extraArgs.{flag}"),
                "a flag is written without dashes and `=`",
                format!(
                    "write `{}: \"value\"`",
                    flag.trim_start_matches('-').split('=').next().unwrap_or_default()
                ),
            ));
        }
    }
}
