//! The machine whose pods the stock kubelet runs. It has no cluster document, so its own agent joins nothing; a static pod puts the kubelet on
//! the node and is gone. Then the agent is stopped, and the kubelet has the runtime to itself.
use std::path::Path;

use anyhow::{Context, Result};
use machine::config::{Cluster, Role, StaticPod};
use qemu_tests::cluster::{Layout, generated, on_lan};
use qemu_tests::network::lan_address;
use qemu_tests::stock_kubelet::INSTALLER;
use serde_json::{Value, json};

/// The node's number.
pub const NUMBER: u8 = 2;
/// Any free port of the node's loopback.
const STREAM_PORT: u16 = 10010;
/// The kubelet's own folder on the node.
const HOME: &str = "/var/lib/stock-kubelet";
/// The address of the cluster's DNS, the tenth of the default range of Services.
const DNS: &str = "10.96.0.10";

/// The machine's config.
pub fn config(folder: &Path, layout: &Layout) -> Result<String> {
    let mut config = generated(folder, "control-plane.yaml")?;
    let cluster = config.cluster.take().context("the generated config has no cluster")?;
    config.machine.role = Role::Worker;
    config.machine.join_token = None;
    config.runtime.stream_port = Some(STREAM_PORT);
    config.static_pods = vec![StaticPod { name: "stock-kubelet".into(), pod: installer(&cluster) }];
    on_lan(config, NUMBER, layout.mirror.as_deref())
}

fn installer(cluster: &Cluster) -> Value {
    let environment = [
        ("PATH", "/usr/bin:/bin".to_owned()),
        ("HOME_ON_NODE", HOME.to_owned()),
        ("NODE_IP", lan_address(NUMBER).to_string()),
        ("CA", cluster.ca.certificate.clone()),
        ("BOOTSTRAP", bootstrap(cluster).to_string()),
        ("CONFIG", kubelet(cluster).to_string()),
        ("SERVE", include_str!("serve.sh").to_owned()),
    ];
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stock-kubelet", "namespace": "default"},
        "spec": {
            "hostNetwork": true, "hostPID": true, "restartPolicy": "Never",
            "volumes": [{"name": "node", "hostPath": {"path": HOME, "type": "DirectoryOrCreate"}}],
            "containers": [{
                "name": "install", "image": INSTALLER, "command": ["/bin/sh", "-c", include_str!("install.sh")],
                "env": environment.map(|(name, value)| json!({"name": name, "value": escaped(&value)})),
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": "node", "mountPath": "/node"}],
            }],
        },
    })
}

/// A value in which nothing looks like a reference to another variable.
fn escaped(value: &str) -> String {
    value.replace("$(", "$$(")
}

/// With the cluster's token, for a certificate of its own.
fn bootstrap(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
        "users": [{"name": "node", "user": {"token": cluster.bootstrap_token}}],
        "clusters": [{"name": "node", "cluster": {
            "server": cluster.control_plane_endpoint, "certificate-authority": format!("{HOME}/ca.crt"),
        }}],
    })
}

/// The kubelet's defaults, but for what a node must be told.
fn kubelet(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", machine::paths::CRI_SOCKET),
        "cgroupDriver": "cgroupfs",
        "featureGates": {"PodAndContainerStatsFromCRI": true},
        "authentication": {"x509": {"clientCAFile": format!("{HOME}/ca.crt")}},
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
        "clusterDNS": [DNS],
        "clusterDomain": cluster.dns_domain,
        "shutdownGracePeriod": "60s",
        "shutdownGracePeriodCriticalPods": "20s",
        // Its default lies in the root, which is read-only.
        "volumePluginDir": format!("{HOME}/volume-plugins"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_told_of_the_runtime_and_the_cluster() -> Result<()> {
        let cluster = Cluster {
            control_plane_endpoint: "https://10.5.0.10:6443".into(),
            bootstrap_token: "abcdef.0123456789abcdef".into(),
            ..Cluster::default()
        };
        let pod = installer(&cluster);
        let environment = pod["spec"]["containers"][0]["env"].as_array().context("env")?;
        let value = |name: &str| {
            let entry = environment.iter().find(|entry| entry["name"] == name);
            entry.and_then(|entry| entry["value"].as_str()).unwrap_or_default()
        };
        let config: Value = serde_json::from_str(value("CONFIG"))?;
        assert_eq!(config["containerRuntimeEndpoint"], "unix:///run/pintle/runtime/cri.sock");
        let bootstrap: Value = serde_json::from_str(value("BOOTSTRAP"))?;
        assert_eq!(bootstrap["clusters"][0]["cluster"]["server"], "https://10.5.0.10:6443");
        assert!(value("SERVE").contains("\"$$(cat /sys/fs/cgroup/system/agent/cgroup.procs)\""));
        Ok(())
    }
}
