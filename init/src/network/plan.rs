//! From the network as it is to the network as it shall be: a list of steps, removals first.
use std::net::IpAddr;

use ipnet::IpNet;

use super::observed::Observed;
use super::spec::{RouteSpec, Spec};

/// One change of the kernel's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    DeleteRoute { link: u32, route: RouteSpec },
    DeleteAddress { link: u32, address: IpNet },
    SetLink { link: u32, name: String, up: bool, mtu: Option<u32> },
    AddAddress { link: u32, address: IpNet },
    AddRoute { link: u32, route: RouteSpec },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let route = |f: &mut std::fmt::Formatter<'_>, verb, route: &RouteSpec| {
            write!(f, "{verb} route {}", route.to)?;
            if let Some(via) = route.via {
                write!(f, " via {via}")?;
            }
            write!(f, " on {} (metric {})", route.link, route.metric)
        };
        match self {
            Self::DeleteRoute { route: it, .. } => route(f, "delete", it),
            Self::AddRoute { route: it, .. } => route(f, "add", it),
            Self::DeleteAddress { link, address } => write!(f, "delete address {address} from link {link}"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to link {link}"),
            Self::SetLink { name, up, mtu, .. } => {
                write!(f, "set {name} {}", if *up { "up" } else { "down" })?;
                mtu.map_or(Ok(()), |mtu| write!(f, ", MTU {mtu}"))
            }
        }
    }
}

/// What to do now. `previous` is what we set up before: only that is ever removed, so what others add (a virtual IP, a CNI plugin's
/// routes) stays. Routes wait until their link is up and their gateway can be reached; the change that brings this about leads here again.
pub fn plan(spec: &Spec, previous: &Spec, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let index = |name: &str| observed.link(name).map(|link| link.index);
    for route in previous.routes.difference(&spec.routes) {
        if let Some(link) = index(&route.link).filter(|link| has_route(observed, *link, route)) {
            steps.push(Step::DeleteRoute { link, route: route.clone() });
        }
    }
    for (name, address) in previous.addresses.difference(&spec.addresses) {
        if let Some(link) = observed.link(name).filter(|link| link.addresses.contains(address)) {
            steps.push(Step::DeleteAddress { link: link.index, address: *address });
        }
    }
    for (name, wanted) in &spec.links {
        let Some(link) = observed.link(name) else { continue };
        let mtu = wanted.mtu.filter(|mtu| *mtu != link.mtu);
        if link.up != wanted.up || mtu.is_some() {
            steps.push(Step::SetLink { link: link.index, name: name.clone(), up: wanted.up, mtu });
        }
    }
    for (name, address) in &spec.addresses {
        if let Some(link) = observed.link(name).filter(|link| !link.addresses.contains(address)) {
            steps.push(Step::AddAddress { link: link.index, address: *address });
        }
    }
    // Those on the link first: they may be the way to the others' gateways.
    let (direct, indirect): (Vec<_>, Vec<_>) = spec.routes.iter().partition(|route| route.via.is_none());
    for route in direct.into_iter().chain(indirect) {
        let up = spec.links.get(&route.link).is_some_and(|link| link.up);
        let Some(link) = index(&route.link).filter(|_| up) else { continue };
        if !has_route(observed, link, route) {
            steps.push(Step::AddRoute { link, route: route.clone() });
        }
    }
    steps
}

fn has_route(observed: &Observed, link: u32, wanted: &RouteSpec) -> bool {
    // The kernel gives IPv6 routes without a metric 1024.
    let metric = |metric: u32, to: &IpNet| {
        if metric == 0 && matches!(to.addr(), IpAddr::V6(_)) { 1024 } else { metric }
    };
    observed.routes.iter().any(|route| {
        route.link == link
            && route.to == wanted.to
            && route.via == wanted.via
            && metric(route.metric, &route.to) == metric(wanted.metric, &wanted.to)
    })
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Link, Route};
    use super::super::spec::LinkSpec;
    use super::*;

    fn observed() -> Observed {
        let eth0 = Link {
            index: 2,
            name: "eth0".into(),
            mac: String::new(),
            mtu: 1500,
            up: false,
            carrier: false,
            physical: true,
            addresses: vec![],
        };
        Observed { links: [(2, eth0)].into(), routes: vec![] }
    }

    fn spec() -> Spec {
        Spec {
            links: [("eth0".to_owned(), LinkSpec { up: true, mtu: Some(1400) })].into(),
            addresses: [("eth0".to_owned(), "10.0.2.15/24".parse().unwrap())].into(),
            routes: [RouteSpec {
                link: "eth0".into(),
                to: "0.0.0.0/0".parse().unwrap(),
                via: Some("10.0.2.2".parse().unwrap()),
                metric: 1024,
            }]
            .into(),
            ..Spec::default()
        }
    }

    /// The kernel's state after the steps of [`spec`].
    fn settled() -> Observed {
        let mut observed = observed();
        let link = observed.links.get_mut(&2).unwrap();
        (link.up, link.mtu) = (true, 1400);
        link.addresses = vec!["10.0.2.15/24".parse().unwrap()];
        observed.routes = vec![Route {
            link: 2,
            to: "0.0.0.0/0".parse().unwrap(),
            via: Some("10.0.2.2".parse().unwrap()),
            metric: 1024,
        }];
        observed
    }

    #[test]
    fn a_fresh_link_is_raised_then_addressed_then_routed() {
        let steps = plan(&spec(), &Spec::default(), &observed());
        let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "set eth0 up, MTU 1400",
                "add address 10.0.2.15/24 to link 2",
                "add route 0.0.0.0/0 via 10.0.2.2 on eth0 (metric 1024)"
            ]
        );
    }

    #[test]
    fn a_settled_network_needs_nothing() {
        assert_eq!(plan(&spec(), &spec(), &settled()), []);
    }

    #[test]
    fn only_what_was_ours_is_removed_and_routes_go_before_addresses() {
        let mut observed = settled();
        observed.links.get_mut(&2).unwrap().addresses.push("192.0.2.100/32".parse().unwrap());
        let mut wanted = spec();
        wanted.addresses.clear();
        wanted.routes.clear();
        let steps = plan(&wanted, &spec(), &observed);
        assert!(matches!(&steps[..], [Step::DeleteRoute { .. }, Step::DeleteAddress { .. }]), "{steps:?}");
    }

    #[test]
    fn a_link_that_is_down_gets_no_route() {
        let mut wanted = spec();
        wanted.links.get_mut("eth0").unwrap().up = false;
        let steps = plan(&wanted, &Spec::default(), &observed());
        assert!(!steps.iter().any(|step| matches!(step, Step::AddRoute { .. })), "{steps:?}");
    }
}
