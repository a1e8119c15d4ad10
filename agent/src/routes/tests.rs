use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::*;

fn node(cidrs: &[&str], ip: &str) -> Peer {
    let node: Node = serde_json::from_value(json!({
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        "status": {"addresses": [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": ip}]},
    }))
    .unwrap();
    peer(&node)
}

fn route(pods: &str, via: &str) -> PodRoute {
    PodRoute { pods: pods.parse().unwrap(), via: via.parse().unwrap() }
}

#[test]
fn other_nodes_on_our_subnets_get_routes() {
    let peers = BTreeMap::from([
        ("me".to_owned(), node(&["10.244.0.0/24"], "10.5.0.10")),
        ("near".to_owned(), node(&["10.244.1.0/24", "fd00:1::/64"], "10.5.0.11")),
        ("far".to_owned(), node(&["10.244.2.0/24"], "192.168.9.1")),
        ("new".to_owned(), node(&[], "10.5.0.12")),
        ("impostor".to_owned(), node(&["10.244.4.0/24"], "10.5.0.10")),
    ]);
    let links = ["10.5.0.10/24".parse().unwrap()];
    assert_eq!(wanted("me", &peers, &links), BTreeSet::from([route("10.244.1.0/24", "10.5.0.11")]));
}

#[test]
fn stale_routes_go_before_new_ones_come() {
    let present = BTreeSet::from([route("10.244.1.0/24", "10.5.0.11"), route("10.244.2.0/24", "10.5.0.12")]);
    let wanted = BTreeSet::from([route("10.244.1.0/24", "10.5.0.13"), route("10.244.2.0/24", "10.5.0.12")]);
    let (stale, missing) = changes(&wanted, &present);
    assert_eq!(stale, [route("10.244.1.0/24", "10.5.0.11")]);
    assert_eq!(missing, [route("10.244.1.0/24", "10.5.0.13")]);
}

#[test]
fn the_kernel_keeps_our_routes_apart() {
    use super::kernel;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED the_kernel_keeps_our_routes_apart: needs root for a network namespace");
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            // Loopback with a subnet stands for a link.
            handle.link().set(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
            handle.address().add(1, "10.5.0.10".parse().unwrap(), 24).execute().await.unwrap();
            assert!(kernel::list(&handle).await.unwrap().is_empty());
            let (a, b) = (route("10.244.1.0/24", "10.5.0.11"), route("10.244.1.0/24", "10.5.0.12"));
            kernel::add(&handle, a).await.unwrap();
            assert_eq!(kernel::list(&handle).await.unwrap(), BTreeSet::from([a]));
            kernel::add(&handle, b).await.unwrap();
            assert_eq!(kernel::list(&handle).await.unwrap(), BTreeSet::from([b]));
            kernel::remove(&handle, b).await.unwrap();
            assert!(kernel::list(&handle).await.unwrap().is_empty());
        });
    });
    thread.join().unwrap();
}
