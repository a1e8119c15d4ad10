//! The network as it shall be, merged from its layers by a pure function: built-in defaults < DHCP < machine config.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use machine::config::{Dhcp, LinkMatch, MachineConfig};

use super::observed::{Link, Observed};
use machine::net::Lease;

/// The network that the machine shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    pub hostname: String,
    /// By kernel name; links that are not in it are left alone.
    pub links: BTreeMap<String, LinkSpec>,
    /// Link and address.
    pub addresses: BTreeSet<(String, IpNet)>,
    pub routes: BTreeSet<RouteSpec>,
    pub resolvers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub ntp_servers: Vec<String>,
    /// Links that ask for a DHCPv4 lease.
    pub dhcp: BTreeSet<String>,
}

/// How a link shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSpec {
    pub up: bool,
    /// Bytes; none: as it is.
    pub mtu: Option<u32>,
}

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    pub link: String,
    pub to: IpNet,
    pub via: Option<IpAddr>,
    pub metric: u32,
}

/// Merges all layers for the links that exist.
pub fn merge(config: &MachineConfig, leases: &BTreeMap<String, Lease>, observed: &Observed) -> Spec {
    let mut spec = Spec { search: Vec::new(), ..Spec::default() };
    let mut lease_hostname = None;
    let mut lease_resolvers = Vec::new();
    let mut lease_search = Vec::new();
    let mut lease_ntp = Vec::new();
    for link in observed.links.values().filter(|link| link.physical) {
        let settings = config.links.iter().find(|document| matches(&document.link, link));
        let up = settings.is_none_or(|settings| settings.up);
        let mut mtu = settings.and_then(|settings| settings.mtu);
        let dhcp = dhcp(config, link).filter(|_| up);
        if let Some(dhcp) = &dhcp {
            spec.dhcp.insert(link.name.clone());
            if let Some(lease) = leases.get(&link.name) {
                mtu = mtu.or(lease.mtu);
                add_lease(&mut spec, dhcp, lease);
                if dhcp.use_hostname && lease_hostname.is_none() {
                    lease_hostname.clone_from(&lease.hostname);
                }
                if dhcp.use_resolvers {
                    lease_resolvers.extend(lease.resolvers.iter().copied());
                    lease_search.extend(lease.search.iter().cloned());
                }
                lease_ntp.extend(lease.ntp_servers.iter().map(ToString::to_string));
            }
        }
        spec.links.insert(link.name.clone(), LinkSpec { up, mtu });
        let of_link = |document: &LinkMatch| matches(document, link);
        for address in config.addresses.iter().filter(|document| of_link(&document.link)) {
            spec.addresses.insert((link.name.clone(), address.address));
        }
        for route in config.routes.iter().filter(|document| of_link(&document.link)) {
            spec.routes.insert(RouteSpec {
                link: link.name.clone(),
                to: route.destination.trunc(),
                via: route.gateway,
                metric: route.metric,
            });
        }
    }
    (spec.resolvers, spec.search) = match &config.resolver {
        Some(resolver) => (resolver.nameservers.clone(), resolver.search_domains.clone()),
        None => (unique(lease_resolvers), unique(lease_search)),
    };
    spec.ntp_servers = match &config.time_sync {
        Some(time_sync) => time_sync.servers.clone(),
        None => unique(lease_ntp),
    };
    spec.hostname =
        config.machine.hostname.clone().or(lease_hostname).unwrap_or_else(|| default_hostname(observed));
    spec
}

/// The DHCP settings of a link: its document's; on by default where no document speaks of the link.
fn dhcp(config: &MachineConfig, link: &Link) -> Option<Dhcp> {
    if let Some(document) = config.dhcp.iter().find(|document| matches(&document.link, link)) {
        return document.ipv4.then(|| document.clone());
    }
    let named = config.links.iter().any(|document| matches(&document.link, link))
        || config.addresses.iter().any(|document| matches(&document.link, link));
    (!named).then(|| Dhcp {
        ipv4: true,
        route_metric: 1024,
        use_resolvers: true,
        use_hostname: true,
        ..Dhcp::default()
    })
}

fn add_lease(spec: &mut Spec, dhcp: &Dhcp, lease: &Lease) {
    let link = || lease.link.clone();
    spec.addresses.insert((link(), lease.address.into()));
    let mut add = |to: Ipv4Net, via: Option<IpAddr>| {
        spec.routes.insert(RouteSpec { link: link(), to: to.trunc().into(), via, metric: dhcp.route_metric });
    };
    if lease.routes.is_empty()
        && let Some(router) = lease.routers.first()
    {
        reach(&lease.address, *router, &mut add);
        add(Ipv4Net::default(), Some((*router).into()));
    }
    for (to, via) in &lease.routes {
        if via.is_unspecified() {
            add(*to, None);
        } else {
            reach(&lease.address, *via, &mut add);
            add(*to, Some((*via).into()));
        }
    }
}

/// Some clouds lease a /32 whose router is not in it: such a router needs a route of its own.
fn reach(address: &Ipv4Net, router: std::net::Ipv4Addr, add: &mut impl FnMut(Ipv4Net, Option<IpAddr>)) {
    if !address.contains(&router) {
        add(router.into(), None);
    }
}

fn matches(document: &LinkMatch, link: &Link) -> bool {
    match (&document.name, &document.mac) {
        (Some(name), _) => *name == link.name,
        (None, Some(mac)) => mac.eq_ignore_ascii_case(&link.mac),
        (None, None) => false,
    }
}

fn unique<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// `pintle-` and the last six digits of the first link's hardware address.
fn default_hostname(observed: &Observed) -> String {
    let digits = |link: &Link| link.mac.replace(':', "").chars().skip(6).collect::<String>();
    observed
        .links
        .values()
        .find(|link| link.physical)
        .map_or_else(|| "pintle".into(), |link| format!("pintle-{}", digits(link)))
}

#[cfg(test)]
mod tests;
