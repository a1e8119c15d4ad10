use serde_json::{Value, json};

use super::{Mount, Pod, Probes, leader_election, program};
use crate::flags::Flags;
use crate::input::Input;
use crate::layout::kubeconfig;
use crate::membership::InitialCluster;

pub fn pod(input: &Input, members: &InitialCluster, stamp: &str) -> (&'static str, Value) {
    let component = &input.cluster.scheduler;
    let kubeconfig = kubeconfig("scheduler");
    let loopback = input.loopback().to_string();
    let mut flags = Flags::default();
    flags
        .set("bind-address", &*loopback)
        .set("leader-elect", leader_election(members))
        .set("kubeconfig", &*kubeconfig)
        .set("authentication-kubeconfig", &*kubeconfig)
        .set("authorization-kubeconfig", &*kubeconfig);
    Pod {
        name: "kube-scheduler",
        component,
        command: flags.command(&program("kube-scheduler"), component),
        cpu: "50m",
        memory: "48Mi",
        mounts: vec![Mount::kubeconfig("scheduler")],
        probes: Probes {
            host: loopback,
            port: 10259,
            scheme: "HTTPS",
            liveness: "/livez",
            readiness: Some("/readyz"),
        },
        annotations: json!({"pintle.dev/kubeconfig": stamp}),
    }
    .render()
}
