use machine::paths::{ETCD_DATA, KUBERNETES_PKI};
use serde_json::{Value, json};

use super::{Mount, Pod, Probes, program};
use crate::flags::Flags;
use crate::input::{Input, socket};
use crate::layout::pki;
use crate::membership::InitialCluster;

/// Where etcd answers health and metrics in plain HTTP, on loopback only.
pub const METRICS_PORT: u16 = 2381;
/// How often etcd tells each of the API server's hundred watches how far it is. Only resources that do not change live by it, and revisions stay for five
/// minutes; lists ask themselves (KEP-2340). kubeadm's five seconds keep both programs busy all the time.
const PROGRESS: &str = "60s";
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Bytes; etcd refuses writes above it. The default of 2 GiB is small for a busy cluster, and 8 GiB is the most etcd advises.
const QUOTA: u64 = 4 << 30;

/// The URL that other members reach this one by.
#[must_use]
pub fn peer_url(input: &Input) -> String {
    format!("https://{}", socket(input.address, PEER_PORT))
}

/// URL of this node's etcd for the API server.
pub fn client_url(input: &Input) -> String {
    format!("https://{}", socket(input.loopback(), CLIENT_PORT))
}

pub fn pod(input: &Input, members: &InitialCluster) -> (&'static str, Value) {
    let advertised = format!("https://{}", socket(input.address, CLIENT_PORT));
    let mut flags = Flags::default();
    flags
        .set("name", &*input.node_name)
        .set("data-dir", ETCD_DATA)
        .set("listen-client-urls", format!("{},{advertised}", client_url(input)))
        .set("advertise-client-urls", &*advertised)
        .set("listen-peer-urls", peer_url(input))
        .set("initial-advertise-peer-urls", peer_url(input))
        .set("initial-cluster", members.flag())
        .set("initial-cluster-state", members.state_flag())
        .set("listen-metrics-urls", format!("http://{}", socket(input.loopback(), METRICS_PORT)))
        .set("cert-file", pki("etcd/server.crt"))
        .set("key-file", pki("etcd/server.key"))
        .set("trusted-ca-file", pki("etcd/ca.crt"))
        .set("client-cert-auth", "true")
        .set("peer-cert-file", pki("etcd/peer.crt"))
        .set("peer-key-file", pki("etcd/peer.key"))
        .set("peer-trusted-ca-file", pki("etcd/ca.crt"))
        .set("peer-client-cert-auth", "true")
        .set("snapshot-count", "10000")
        .set("quota-backend-bytes", QUOTA.to_string())
        .set("auto-compaction-mode", "periodic")
        .set("auto-compaction-retention", "1h")
        .set("feature-gates", "InitialCorruptCheck=true")
        .set("watch-progress-notify-interval", PROGRESS);
    Pod {
        name: "etcd",
        component: &input.cluster.etcd,
        command: flags.command(&program("etcd"), &input.cluster.etcd),
        cpu: "50m",
        memory: "64Mi",
        mounts: vec![
            Mount::folder("data", ETCD_DATA, false),
            Mount::folder("pki", format!("{KUBERNETES_PKI}/etcd"), true),
        ],
        probes: Probes {
            host: input.loopback().to_string(),
            port: METRICS_PORT,
            scheme: "HTTP",
            liveness: "/livez",
            readiness: Some("/readyz"),
        },
        annotations: json!({"kubeadm.kubernetes.io/etcd.advertise-client-urls": advertised}),
    }
    .render()
}
