//! The control plane's static pods, flag for flag what kubeadm 1.37 runs, with requests small enough for a node of 1 GiB.
use serde_json::{Value, json};

mod api_server;
mod controller_manager;
mod etcd;
mod scheduler;

use machine::config::Component;

use crate::input::Input;
use crate::layout;
use crate::membership::InitialCluster;

pub use etcd::{METRICS_PORT as ETCD_METRICS_PORT, peer_url as etcd_peer_url};

/// The static pods as file name (without `.yaml`) and manifest. `stamp` is a digest of the kubeconfigs that programs read only
/// at their start, so that a renewal restarts them.
///
/// # Errors
/// Never in practice: JSON values always serialize to YAML.
pub fn render(
    input: &Input,
    members: &InitialCluster,
    stamp: impl Fn(&str) -> String,
) -> Result<Vec<(&'static str, String)>, serde_yaml_ng::Error> {
    let pods = [
        etcd::pod(input, members),
        api_server::pod(input),
        controller_manager::pod(input, members, &stamp("controller-manager")),
        scheduler::pod(input, members, &stamp("scheduler")),
    ];
    pods.into_iter().map(|(name, pod)| serde_yaml_ng::to_string(&pod).map(|text| (name, text))).collect()
}

/// Whether the static pod's program gives up when the API server does not answer: the controller manager after ten seconds. Started before, it would sit in
/// its restart back-off when the API server comes.
pub fn needs_api_server(name: &str) -> bool {
    matches!(name, "kube-controller-manager" | "kube-scheduler")
}

/// The image of a component: its own or the shipped one.
pub(crate) fn image(component: &Component) -> &str {
    component.image.as_deref().unwrap_or(machine::paths::KUBERNETES_IMAGE)
}

/// A program of the shipped image; upstream's own images have theirs in the same place.
fn program(name: &str) -> String {
    format!("/usr/local/bin/{name}")
}

/// `--leader-elect`. Without others there is nobody to elect: the Leases would only cost a write to etcd each second, and a machine that is slow for ten
/// seconds its controllers, which end when they cannot renew.
fn leader_election(members: &InitialCluster) -> &'static str {
    if members.has_others() { "true" } else { "false" }
}

struct Pod<'a> {
    name: &'static str,
    component: &'a Component,
    command: Vec<String>,
    cpu: &'static str,
    memory: &'static str,
    mounts: Vec<Mount>,
    probes: Probes,
    annotations: Value,
}

struct Mount {
    name: &'static str,
    path: String,
    read_only: bool,
    kind: &'static str,
}

impl Mount {
    fn folder(name: &'static str, path: impl Into<String>, read_only: bool) -> Self {
        Self { name, path: path.into(), read_only, kind: "DirectoryOrCreate" }
    }

    fn kubeconfig(name: &str) -> Self {
        Self { name: "kubeconfig", path: layout::kubeconfig(name), read_only: true, kind: "File" }
    }
}

struct Probes {
    host: String,
    port: u16,
    scheme: &'static str,
    liveness: &'static str,
    readiness: Option<&'static str>,
}

impl Probes {
    fn probe(&self, path: &str, initial: u32, period: u32, failures: u32) -> Value {
        json!({
            "httpGet": {"host": self.host, "path": path, "port": self.port, "scheme": self.scheme},
            "initialDelaySeconds": initial,
            "timeoutSeconds": 15,
            "failureThreshold": failures,
            "periodSeconds": period,
        })
    }
}

impl Pod<'_> {
    fn render(self) -> (&'static str, Value) {
        let mounts: Vec<_> = self
            .mounts
            .iter()
            .map(|m| json!({"name": m.name, "mountPath": m.path, "readOnly": m.read_only}))
            .collect();
        let volumes: Vec<_> = self
            .mounts
            .iter()
            .map(|m| json!({"name": m.name, "hostPath": {"path": m.path, "type": m.kind}}))
            .collect();
        let mut container = json!({
            "name": self.name,
            "image": image(self.component),
            "imagePullPolicy": "IfNotPresent",
            "command": self.command,
            "resources": {"requests": {"cpu": self.cpu, "memory": self.memory}},
            "volumeMounts": mounts,
            // A slow machine gets ten minutes (kubeadm gives four): the API server's first start makes the roles of RBAC, which
            // took an overloaded virtual machine more than four, and a kill only makes it begin anew. Looked at often, so that a
            // fast machine is Ready at once.
            "startupProbe": self.probes.probe(self.probes.liveness, 2, 2, 300),
            "livenessProbe": self.probes.probe(self.probes.liveness, 10, 10, 8),
        });
        if let Some(path) = self.probes.readiness {
            // No traffic depends on it, and each costs both ends a TLS handshake.
            container["readinessProbe"] = self.probes.probe(path, 0, 5, 3);
        }
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "labels": {"component": self.name, "tier": "control-plane"},
                "annotations": self.annotations,
            },
            "spec": {
                "hostNetwork": true,
                "priority": 2_000_001_000,
                "priorityClassName": "system-node-critical",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": volumes,
            },
        });
        (self.name, pod)
    }
}

#[cfg(test)]
mod tests;
