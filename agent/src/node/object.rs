//! The Node object, from what is known. Pure.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use machine::cri;
use serde_json::{Value, json};

use super::capacity::{Resources, quantities};
use crate::eviction::Pressures;
use crate::settings::Settings;

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// What the machine says of itself and does not change while it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
}

impl Identity {
    /// Reads it from /proc, /sys and /etc.
    #[must_use]
    pub fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let release = read("/etc/os-release");
        let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        Self {
            machine_id: read("/etc/machine-id"),
            system_uuid: Some(read("/sys/class/dmi/id/product_uuid"))
                .filter(|u| !u.is_empty())
                .unwrap_or_else(|| read("/etc/machine-id")),
            boot_id: node_kit::clock::boot_id().unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: name.map_or_else(|| "Pintle".into(), |n| n.trim_matches('"').to_owned()),
        }
    }
}

/// What the runtime says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Runtime {
    pub name_and_version: String,
    pub handlers: Vec<cri::RuntimeHandler>,
    /// Why it cannot run pods; empty when it can.
    pub not_ready: Vec<String>,
    pub images: Vec<cri::Image>,
    pub supplemental_groups_policy: bool,
}

/// Architecture in Go's words.
#[must_use]
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that the node keeps on itself.
#[must_use]
pub fn labels(settings: &Settings, name: &str) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = settings.node_agent().node_labels.clone();
    for (key, value) in [("hostname", name), ("os", "linux"), ("arch", arch())] {
        labels.insert(format!("kubernetes.io/{key}"), value.to_owned());
        if key != "hostname" {
            labels.insert(format!("beta.kubernetes.io/{key}"), value.to_owned());
        }
    }
    labels
}

/// The taints that the node registers with.
#[must_use]
pub fn taints(settings: &Settings) -> Vec<Taint> {
    let mut taints: Vec<Taint> = settings
        .node_agent()
        .register_with_taints
        .iter()
        .map(|t| Taint {
            key: t.key.clone(),
            value: t.value.clone(),
            effect: t.effect.clone(),
            time_added: None,
        })
        .collect();
    let open = settings.cluster().is_some_and(|c| c.schedule_on_control_plane);
    if settings.is_control_plane() && !open && !taints.iter().any(|t| t.key == CONTROL_PLANE) {
        taints.push(Taint { key: CONTROL_PLANE.into(), effect: "NoSchedule".into(), ..Default::default() });
    }
    taints
}

/// The Node to create. A node may not give itself the control-plane role label (NodeRestriction); the control plane does.
#[must_use]
pub fn new_node(settings: &Settings, name: &str, status: NodeStatus) -> Node {
    let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach", "true")];
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels(settings, name)),
            annotations: Some(annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            taints: Some(taints(settings)).filter(|t| !t.is_empty()),
            ..Default::default()
        }),
        status: Some(status),
    }
}

/// Everything that a status is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub settings: &'a Settings,
    pub name: &'a str,
    pub identity: &'a Identity,
    pub runtime: &'a Runtime,
    pub resources: &'a Resources,
    pub pressure: Pressures,
    pub shutting_down: bool,
    /// The conditions as last told.
    pub previous: &'a [NodeCondition],
    pub now: Time,
}

/// What this agent can do of the features that nodes declare (KEP-5328, k8s.io/component-helpers/nodedeclaredfeatures), in the alphabet's order. The scheduler places no pod that
/// needs another, and the API server takes no such change of a pod that is here. Resizing ordinary init containers is not among them.
const DECLARED_FEATURES: [&str; 3] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "RestartAllContainersOnContainerExits",
];

/// The node's status.
#[must_use]
pub fn status(facts: &Facts<'_>) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = facts
        .settings
        .node_ips()
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: facts.name.to_owned() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(quantities(&facts.resources.capacity)),
        allocatable: Some(quantities(&facts.resources.allocatable)),
        conditions: Some(conditions(facts)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: 10250 }),
        }),
        declared_features: Some(DECLARED_FEATURES.map(String::from).into()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(facts.runtime.supplemental_groups_policy),
        }),
        images: Some(images(&facts.runtime.images)),
        node_info: Some(NodeSystemInfo {
            architecture: arch().into(),
            boot_id: facts.identity.boot_id.clone(),
            container_runtime_version: facts.runtime.name_and_version.clone(),
            kernel_version: facts.identity.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: machine::paths::KUBERNETES_VERSION.into(),
            machine_id: facts.identity.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: facts.identity.os_image.clone(),
            system_uuid: facts.identity.system_uuid.clone(),
            ..Default::default()
        }),
        runtime_handlers: Some(facts.runtime.handlers.iter().map(handler).collect()),
        ..Default::default()
    }
}

fn handler(handler: &cri::RuntimeHandler) -> NodeRuntimeHandler {
    let features = handler.features.as_ref();
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.is_some_and(|f| f.recursive_read_only_mounts)),
            user_namespaces: Some(features.is_some_and(|f| f.user_namespaces)),
        }),
    }
}

/// The fifty largest images.
fn images(images: &[cri::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&cri::Image> = images.iter().collect();
    sorted.sort_by_key(|image| std::cmp::Reverse(image.size));
    let names =
        |image: &cri::Image| image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect();
    sorted
        .into_iter()
        .take(50)
        .map(|image| ContainerImage { names: Some(names(image)), size_bytes: i64::try_from(image.size).ok() })
        .collect()
}

fn conditions(facts: &Facts<'_>) -> Vec<NodeCondition> {
    let pressure = |kind, on: bool, has: &'static str, enough: &'static str, name: &str| {
        let (reason, message) = if on {
            (has, format!("kubelet has {name} available"))
        } else {
            (enough, format!("kubelet has sufficient {name} available"))
        };
        let message = message.replace("has insufficient", "has");
        (
            kind,
            if on { "True" } else { "False" },
            reason,
            if on { message.replace(" available", " pressure") } else { message },
        )
    };
    let mut faults = facts.runtime.not_ready.clone();
    if facts.shutting_down {
        faults.push("node is shutting down".into());
    }
    let ready = if faults.is_empty() {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", "False", "KubeletNotReady", faults.join("; "))
    };
    let p = facts.pressure;
    [
        pressure(
            "MemoryPressure",
            p.memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "memory",
        ),
        pressure("DiskPressure", p.disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk"),
        pressure("PIDPressure", p.pid, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "PID"),
        ready,
    ]
    .into_iter()
    .map(|(kind, status, reason, message)| {
        let old = facts.previous.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(facts.now.clone()),
            last_transition_time: old
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(facts.now.clone())),
        }
    })
    .collect()
}

/// The status as a strategic merge patch: conditions of others stay, addresses are replaced as a whole.
#[must_use]
pub fn patch(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = value.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({ "$patch": "replace" }));
    }
    json!({ "status": value })
}

/// The status without its heartbeat times: what decides whether it is told before its five minutes are over.
#[must_use]
pub fn without_heartbeat(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_node_is_tainted_unless_it_is_open() {
        let mut settings = Settings::default();
        settings.machine.machine.role = machine::config::Role::ControlPlane;
        settings.machine.cluster = Some(Default::default());
        assert_eq!(taints(&settings)[0].key, CONTROL_PLANE);
        settings.machine.cluster.as_mut().unwrap().schedule_on_control_plane = true;
        assert!(taints(&settings).is_empty());
    }

    #[test]
    fn a_runtime_that_is_not_ready_makes_the_node_not_ready() {
        let settings = Settings::default();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let mut runtime = Runtime::default();
        let make = |runtime: &Runtime| {
            status(&Facts {
                settings: &settings,
                name: "n",
                identity: &Identity::default(),
                runtime,
                resources: &Resources::default(),
                pressure: Pressures::default(),
                shutting_down: false,
                previous: &[],
                now: now.clone(),
            })
        };
        let ready = |s: &NodeStatus| {
            s.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap().status.clone()
        };
        assert_eq!(ready(&make(&runtime)), "True");
        runtime.not_ready.push("container runtime network not ready".into());
        assert_eq!(ready(&make(&runtime)), "False");
    }
}
