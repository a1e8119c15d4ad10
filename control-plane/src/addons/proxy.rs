//! kube-proxy in nftables mode.
use anyhow::Result;
use serde_json::{Value, json};

use super::bootstrap::{binding, service_account};
use crate::flags::Flags;
use crate::input::Input;
use crate::pods::image;

const FOLDER: &str = "/var/lib/kube-proxy";

pub fn objects(input: &Input) -> Result<Vec<Value>> {
    Ok(vec![
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        }),
        binding("pintle:node-proxier", "system:node-proxier", &service_account("kube-proxy")),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": {"app": "kube-proxy"}},
            "data": {
                "config.conf": serde_yaml_ng::to_string(&configuration(input))?,
                "kubeconfig.conf": serde_yaml_ng::to_string(&kubeconfig(input))?,
            },
        }),
        daemon_set(input),
    ])
}

fn configuration(input: &Input) -> Value {
    let ranges: Vec<_> = input.cluster.pod_cidrs.iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": ranges.join(","),
        "clientConnection": {"kubeconfig": format!("{FOLDER}/kubeconfig.conf")},
    })
}

/// The API server by its endpoint, since its Service needs kube-proxy to work.
fn kubeconfig(input: &Input) -> Value {
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": {
            "certificate-authority": format!("{account}/ca.crt"),
            "server": input.cluster.control_plane_endpoint,
        }}],
        "users": [{"name": "default", "user": {"tokenFile": format!("{account}/token")}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "current-context": "default",
    })
}

fn daemon_set(input: &Input) -> Value {
    let mut flags = Flags::default();
    flags.set("config", format!("{FOLDER}/config.conf")).set("hostname-override", "$(NODE_NAME)");
    let labels = json!({"k8s-app": "kube-proxy"});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "hostNetwork": true,
                    "serviceAccountName": "kube-proxy",
                    "tolerations": [{"operator": "Exists"}],
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "containers": [{
                        "name": "kube-proxy",
                        "image": image(&input.cluster.proxy),
                        "imagePullPolicy": "IfNotPresent",
                        "command": flags.command("/usr/local/bin/kube-proxy", &input.cluster.proxy),
                        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": {"privileged": true},
                        "resources": {"requests": {"cpu": "10m", "memory": "24Mi"}},
                        "volumeMounts": [
                            {"name": "kube-proxy", "mountPath": FOLDER},
                            {"name": "lib-modules", "mountPath": "/lib/modules", "readOnly": true},
                        ],
                    }],
                    "volumes": [
                        {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                        {"name": "lib-modules", "hostPath": {"path": "/lib/modules"}},
                    ],
                },
            },
        },
    })
}
