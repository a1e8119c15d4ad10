use ipnet::IpNet;
use machine::paths::KUBERNETES_PKI;
use serde_json::{Value, json};

use super::{Mount, Pod, Probes, leader_election, program};
use crate::flags::Flags;
use crate::input::Input;
use crate::layout::{kubeconfig, pki};
use crate::membership::InitialCluster;

pub fn pod(input: &Input, members: &InitialCluster, stamp: &str) -> (&'static str, Value) {
    let cluster = &input.cluster;
    let kubeconfig = kubeconfig("controller-manager");
    let loopback = input.loopback().to_string();
    let mut flags = Flags::default();
    flags
        .set("bind-address", &*loopback)
        .set("leader-elect", leader_election(members))
        .set("kubeconfig", &*kubeconfig)
        .set("authentication-kubeconfig", &*kubeconfig)
        .set("authorization-kubeconfig", &*kubeconfig)
        .set("client-ca-file", pki("ca.crt"))
        .set("requestheader-client-ca-file", pki("front-proxy-ca.crt"))
        .set("root-ca-file", pki("ca.crt"))
        .set("service-account-private-key-file", pki("sa.key"))
        .set("use-service-account-credentials", "true")
        .set("controllers", "*,bootstrapsigner,tokencleaner")
        .set("allocate-node-cidrs", "true")
        .set("cluster-cidr", list(&cluster.pod_cidrs))
        .set("service-cluster-ip-range", list(&cluster.service_cidrs))
        .set("cluster-name", &*cluster.name);
    // A certificate that a kubelet serves with is worth nothing to the clients of the API server, whatever names are in it.
    for (signer, ca) in [
        ("kubelet-serving", "kubelet-serving-ca"),
        ("kubelet-client", "ca"),
        ("kube-apiserver-client", "ca"),
        ("legacy-unknown", "ca"),
    ] {
        flags
            .set(&format!("cluster-signing-{signer}-cert-file"), pki(&format!("{ca}.crt")))
            .set(&format!("cluster-signing-{signer}-key-file"), pki(&format!("{ca}.key")));
    }
    Pod {
        name: "kube-controller-manager",
        component: &cluster.controller_manager,
        command: flags.command(&program("kube-controller-manager"), &cluster.controller_manager),
        cpu: "50m",
        memory: "64Mi",
        mounts: vec![Mount::folder("pki", KUBERNETES_PKI, true), Mount::kubeconfig("controller-manager")],
        probes: Probes {
            host: loopback,
            port: 10257,
            scheme: "HTTPS",
            liveness: "/healthz",
            readiness: None,
        },
        annotations: json!({"pintle.dev/kubeconfig": stamp}),
    }
    .render()
}

/// Comma-separated, as flags take several ranges.
pub fn list(cidrs: &[IpNet]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
