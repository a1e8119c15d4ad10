use machine::config::{Address, Link as LinkDocument, Resolver, Route};

use super::*;

fn observed() -> Observed {
    let link = |index, name: &str, mac: &str, physical| Link {
        index,
        name: name.into(),
        mac: mac.into(),
        mtu: 1500,
        up: true,
        carrier: true,
        physical,
        addresses: vec![],
    };
    let links = [
        link(1, "lo", "00:00:00:00:00:00", false),
        link(2, "eth0", "52:54:00:12:34:56", true),
        link(3, "eth1", "52:54:00:12:34:57", true),
        link(4, "pods0", "0a:58:0a:f4:00:01", false),
    ];
    Observed { links: links.into_iter().map(|link| (link.index, link)).collect(), ..Observed::default() }
}

fn lease(link: &str) -> Lease {
    Lease {
        link: link.into(),
        address: "10.0.2.15/24".parse().unwrap(),
        routers: vec![[10, 0, 2, 2].into()],
        routes: vec![],
        resolvers: vec!["10.0.2.3".parse().unwrap()],
        search: vec!["lan".into()],
        hostname: Some("from-dhcp".into()),
        mtu: Some(1400),
        ntp_servers: vec!["10.0.2.4".parse().unwrap()],
        seconds: 3600,
        server: [10, 0, 2, 2].into(),
    }
}

fn leases() -> BTreeMap<String, Lease> {
    BTreeMap::from([("eth0".to_owned(), lease("eth0"))])
}

fn named(name: &str) -> LinkMatch {
    LinkMatch { name: Some(name.into()), mac: None }
}

#[test]
fn without_config_every_ethernet_link_comes_up_and_asks_dhcp() {
    let spec = merge(&MachineConfig::default(), &BTreeMap::new(), &observed());
    assert_eq!(spec.links.keys().collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert_eq!(spec.dhcp.iter().collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert_eq!(spec.hostname, "pintle-123456");
}

#[test]
fn a_lease_gives_address_route_resolver_name_and_mtu() {
    let spec = merge(&MachineConfig::default(), &leases(), &observed());
    assert!(spec.addresses.contains(&("eth0".into(), "10.0.2.15/24".parse().unwrap())));
    let default = RouteSpec {
        link: "eth0".into(),
        to: "0.0.0.0/0".parse().unwrap(),
        via: Some("10.0.2.2".parse().unwrap()),
        metric: 1024,
    };
    assert_eq!(spec.routes, BTreeSet::from([default]));
    assert_eq!(spec.hostname, "from-dhcp");
    assert_eq!(spec.links["eth0"].mtu, Some(1400));
    assert_eq!(spec.ntp_servers, ["10.0.2.4"]);
    assert_eq!((spec.resolvers.len(), spec.search), (1, vec!["lan".to_owned()]));
}

#[test]
fn machine_config_wins_over_dhcp() {
    let mut config = MachineConfig::default();
    config.machine.hostname = Some("configured".into());
    config.resolver =
        Some(Resolver { nameservers: vec!["192.0.2.53".parse().unwrap()], search_domains: vec![] });
    config.links = vec![LinkDocument { link: named("eth0"), mtu: Some(9000), up: true }];
    config.dhcp = vec![Dhcp { link: named("eth0"), ipv4: true, ..Dhcp::default() }];
    let spec = merge(&config, &leases(), &observed());
    assert_eq!(spec.hostname, "configured");
    assert_eq!(spec.resolvers, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
    assert!(spec.search.is_empty());
    assert_eq!(spec.links["eth0"].mtu, Some(9000));
}

#[test]
fn a_static_address_replaces_dhcp_on_its_link_only() {
    let config = MachineConfig {
        addresses: vec![Address {
            link: LinkMatch { name: None, mac: Some("52:54:00:12:34:57".to_uppercase()) },
            address: "10.5.0.10/24".parse().unwrap(),
        }],
        routes: vec![Route {
            link: named("eth1"),
            destination: "10.6.0.9/16".parse().unwrap(),
            gateway: Some("10.5.0.1".parse().unwrap()),
            metric: 512,
        }],
        ..MachineConfig::default()
    };
    let spec = merge(&config, &BTreeMap::new(), &observed());
    assert_eq!(spec.dhcp.iter().collect::<Vec<_>>(), ["eth0"]);
    assert!(spec.addresses.contains(&("eth1".into(), "10.5.0.10/24".parse().unwrap())));
    assert_eq!(spec.routes.first().unwrap().to, "10.6.0.0/16".parse().unwrap());
}

#[test]
fn a_link_that_is_down_by_config_has_no_dhcp() {
    let config = MachineConfig {
        links: vec![LinkDocument { link: named("eth0"), mtu: None, up: false }],
        dhcp: vec![Dhcp { link: named("eth0"), ipv4: true, ..Dhcp::default() }],
        ..MachineConfig::default()
    };
    let spec = merge(&config, &leases(), &observed());
    assert!(!spec.links["eth0"].up && !spec.dhcp.contains("eth0") && spec.addresses.is_empty());
}

#[test]
fn classless_routes_replace_the_router_and_a_far_router_is_reached_over_the_link() {
    let mut lease = lease("eth0");
    lease.address = "192.0.2.7/32".parse().unwrap();
    lease.routes = vec![
        ("0.0.0.0/0".parse().unwrap(), [169, 254, 1, 1].into()),
        ("198.51.100.0/24".parse().unwrap(), [0, 0, 0, 0].into()),
    ];
    let spec = merge(&MachineConfig::default(), &BTreeMap::from([("eth0".to_owned(), lease)]), &observed());
    let routes: Vec<_> =
        spec.routes.iter().map(|r| (r.to.to_string(), r.via.map(|via| via.to_string()))).collect();
    assert_eq!(
        routes,
        [
            ("0.0.0.0/0".to_owned(), Some("169.254.1.1".to_owned())),
            ("169.254.1.1/32".to_owned(), None),
            ("198.51.100.0/24".to_owned(), None),
        ]
    );
}
