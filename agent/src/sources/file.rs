//! Static pods: manifests of [`machine::paths::MANIFESTS`] and StaticPod documents of the machine config.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use node_kit::tasks::essential;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::settings::Settings;
use node_kit::folder::Folder;

/// Static pods by uid.
pub type StaticPods = Arc<BTreeMap<String, Arc<Pod>>>;

/// The largest manifest read, in bytes.
const MAX_MANIFEST: u64 = 10 << 20;
/// The most manifests taken from the folder.
const MAX_PODS: usize = 500;

/// Makes a manifest the pod that runs here: uid from its content, name with the node's, annotations and defaults as the kubelet's
/// and the API server's.
///
/// # Errors
/// Why the manifest is no pod.
pub fn static_pod(value: serde_json::Value, origin: &str, node: &str) -> Result<Pod, String> {
    let kind = value.get("kind").and_then(|k| k.as_str()).unwrap_or_default().to_owned();
    if kind != "Pod" {
        return Err(format!("{origin}: kind is {kind:?}; only Pod can be a static pod"));
    }
    let mut hasher = Sha256::new();
    hasher.update(value.to_string());
    hasher.update(format!("host:{node}file:{origin}"));
    let hash = hex::encode(&hasher.finalize()[..16]);
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| format!("{origin}: {error}"))?;
    let name = pod
        .metadata
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| format!("{origin}: the pod has no name"))?;
    let uid = pod.metadata.uid.get_or_insert(hash).clone();
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.hash".into(), uid);
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    let Some(spec) = pod.spec.as_mut() else { return Err(format!("{origin}: the pod has no spec")) };
    if spec.containers.is_empty() {
        return Err(format!("{origin}: the pod has no containers"));
    }
    spec.node_name = Some(node.to_owned());
    let tolerations = spec.tolerations.get_or_insert_default();
    let everything = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    };
    if !tolerations.contains(&everything) {
        tolerations.push(everything);
    }
    default_spec(spec);
    pod.status = None;
    Ok(pod)
}

/// The defaults of the API server that running a pod depends on.
fn default_spec(spec: &mut k8s_openapi::api::core::v1::PodSpec) {
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    let host_network = spec.host_network.unwrap_or_default();
    let priority = match spec.priority_class_name.as_deref() {
        Some("system-node-critical") => Some(2_000_001_000),
        Some("system-cluster-critical") => Some(2_000_000_000),
        _ => None,
    };
    spec.priority = spec.priority.or(priority);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
        container.termination_message_policy.get_or_insert_with(|| "File".into());
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
            if host_network {
                port.host_port.get_or_insert(port.container_port);
            }
        }
        if let Some(resources) = container.resources.as_mut() {
            for (name, limit) in resources.limits.iter().flatten() {
                resources
                    .requests
                    .get_or_insert_default()
                    .entry(name.clone())
                    .or_insert_with(|| limit.clone());
            }
        }
        for probe in
            [&mut container.startup_probe, &mut container.liveness_probe, &mut container.readiness_probe]
                .into_iter()
                .flatten()
        {
            probe.period_seconds.get_or_insert(10);
            probe.timeout_seconds.get_or_insert(1);
            probe.success_threshold.get_or_insert(1);
            probe.failure_threshold.get_or_insert(3);
            if let Some(get) = probe.http_get.as_mut() {
                get.scheme.get_or_insert_with(|| "HTTP".into());
                get.path.get_or_insert_with(|| "/".into());
            }
        }
    }
}

/// Reads all static pods. Faults are told, and do not keep other pods from running.
#[must_use]
pub fn read(folder: &Path, settings: &Settings, node: &str) -> (BTreeMap<String, Arc<Pod>>, Vec<String>) {
    let mut pods = BTreeMap::new();
    let mut faults = Vec::new();
    let mut add = |result: Result<Pod, String>| match result {
        Ok(pod) => {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if pods.len() < MAX_PODS {
                pods.insert(uid, Arc::new(pod));
            }
        }
        Err(fault) => faults.push(fault),
    };
    let mut files: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let hidden =
            path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.') || n.ends_with('~'));
        if !hidden && path.is_file() {
            add(read_manifest(&path, node));
        }
    }
    for document in &settings.machine.static_pods {
        add(static_pod(document.pod.clone(), &format!("StaticPod {}", document.name), node));
    }
    (pods, faults)
}

fn read_manifest(path: &Path, node: &str) -> Result<Pod, String> {
    let origin = path.display().to_string();
    let length = path.metadata().map_err(|error| format!("{origin}: {error}"))?.len();
    if length > MAX_MANIFEST {
        return Err(format!("{origin}: {length} bytes; a manifest may have {MAX_MANIFEST}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{origin}: {error}"))?;
    let value: serde_json::Value =
        serde_yaml_ng::from_str(&text).map_err(|error| format!("{origin}: {error}"))?;
    static_pod(value, &origin, node)
}

/// Follows the static pods; the first reading is done when this returns.
///
/// # Errors
/// When the folder cannot be made or watched.
pub fn follow(
    folder: &Path,
    mut settings: watch::Receiver<Arc<Settings>>,
    node: Arc<str>,
) -> anyhow::Result<watch::Receiver<StaticPods>> {
    std::fs::create_dir_all(folder)?;
    let mut changes = Folder::watch(folder);
    let folder = folder.to_owned();
    let look = move |settings: &Settings, told: &mut Vec<String>| -> StaticPods {
        let (pods, faults) = read(&folder, settings, &node);
        for fault in faults.iter().filter(|fault| !told.contains(fault)) {
            tracing::warn!("static pod left out: {fault}");
        }
        *told = faults;
        Arc::new(pods)
    };
    let mut told = Vec::new();
    let first = look(&settings.borrow_and_update().clone(), &mut told);
    let (tx, rx) = watch::channel(first);
    essential("static pods", async move {
        loop {
            tokio::select! {
                () = changes.changed() => {}
                changed = settings.changed() => if changed.is_err() { break },
                () = tx.closed() => break,
            }
            let pods = look(&settings.borrow_and_update().clone(), &mut told);
            tx.send_if_modified(|old| {
                let differs = **old != *pods;
                *old = pods;
                differs
            });
        }
    });
    Ok(rx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> serde_json::Value {
        serde_json::json!({"kind": "Pod", "metadata": {"name": "etcd", "namespace": "kube-system"},
            "spec": {"containers": [{"name": "etcd", "image": "e"}]}})
    }

    #[test]
    fn a_manifest_becomes_this_nodes_pod() {
        let pod = static_pod(manifest(), "/m/etcd.yaml", "Node1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("etcd-node1"));
        let annotations = pod.metadata.annotations.unwrap();
        assert_eq!(annotations["kubernetes.io/config.hash"], pod.metadata.uid.unwrap());
        assert_eq!(annotations["kubernetes.io/config.source"], "file");
    }

    #[test]
    fn the_uid_follows_content_and_node() {
        let uid = |value, node| static_pod(value, "/m/etcd.yaml", node).unwrap().metadata.uid.unwrap();
        assert_eq!(uid(manifest(), "a"), uid(manifest(), "a"));
        assert_ne!(uid(manifest(), "a"), uid(manifest(), "b"));
        let mut other = manifest();
        other["spec"]["containers"][0]["image"] = "f".into();
        assert_ne!(uid(manifest(), "a"), uid(other, "a"));
    }

    #[tokio::test]
    async fn files_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let (_tx, settings) = watch::channel(Arc::new(Settings::default()));
        let mut pods = follow(folder.path(), settings, "n".into()).unwrap();
        assert!(pods.borrow_and_update().is_empty());
        std::fs::write(folder.path().join("broken.yaml"), "kind: [").unwrap();
        std::fs::write(folder.path().join("etcd.yaml"), manifest().to_string()).unwrap();
        pods.wait_for(|pods| pods.len() == 1).await.unwrap();
        std::fs::remove_file(folder.path().join("etcd.yaml")).unwrap();
        pods.wait_for(|pods| pods.is_empty()).await.unwrap();
    }
}
