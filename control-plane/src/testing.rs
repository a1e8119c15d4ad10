//! Inputs for tests.
use std::time::SystemTime;

use machine::config::{CertificateAuthority, Cluster, Machine, MachineConfig, Role};
use machine::network::{NodeAddress, NodeNetwork};
use machine::pki;

use crate::input::Input;

pub fn network(addresses: &[&str]) -> NodeNetwork {
    NodeNetwork {
        hostname: "cp1".into(),
        addresses: addresses
            .iter()
            .map(|address| NodeAddress { link: "eth0".into(), address: address.parse().unwrap() })
            .collect(),
        ready: true,
        ..NodeNetwork::default()
    }
}

pub fn config() -> MachineConfig {
    let ca = |name| -> CertificateAuthority { pki::new_ca(name, SystemTime::now()).unwrap() };
    MachineConfig {
        machine: Machine { role: Role::ControlPlane, ca: Some(ca("pintle")), ..Machine::default() },
        cluster: Some(Cluster {
            name: "demo".into(),
            control_plane_endpoint: "https://10.5.0.10:6443".into(),
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            dns_domain: "cluster.local".into(),
            ca: ca("kubernetes"),
            etcd_ca: Some(ca("etcd-ca")),
            front_proxy_ca: Some(ca("front-proxy-ca")),
            service_account: Some(pki::new_key_pair().unwrap()),
            bootstrap_token: "abcdef.0123456789abcdef".into(),
            api_server_cert_sans: vec!["k8s.example".into(), "192.0.2.1".into()],
            ..Cluster::default()
        }),
        ..MachineConfig::default()
    }
}

pub fn input() -> Input {
    Input::new(&config(), &network(&["10.5.0.10/24"])).unwrap()
}
