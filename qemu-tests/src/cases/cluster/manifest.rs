//! Objects that stories apply.
use serde_json::{Value, json};

use super::inspector::{IMAGE, PORT};

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// The inspector of a node.
pub fn inspector(node: &str) -> Value {
    let mut spec = pod_spec(json!([container("inspector", &["serve", &PORT.to_string()])]));
    spec["nodeName"] = node.into();
    spec["hostPID"] = true.into();
    spec["hostNetwork"] = true.into();
    spec["volumes"] = json!([{"name": "host", "hostPath": {"path": "/"}}]);
    let container = &mut spec["containers"][0];
    container["securityContext"] = json!({"privileged": true});
    container["volumeMounts"] =
        json!([{"name": "host", "mountPath": "/host", "mountPropagation": "HostToContainer"}]);
    pod(&format!("inspector-{node}"), spec)
}

/// A pod that is not restarted.
pub fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

/// A spec for any node, the control plane's too. The test program takes no notice of SIGTERM as PID 1, hence the short grace.
pub fn pod_spec(containers: Value) -> Value {
    json!({
        "containers": containers,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
    })
}

/// A pod spec on one node with one container.
pub fn one(node: &str, arguments: &[&str]) -> Value {
    let mut spec = pod_spec(json!([container("main", arguments)]));
    spec["nodeName"] = node.into();
    spec
}

/// As [`one`], and not started again when it ends.
pub fn once(node: &str, arguments: &[&str]) -> Value {
    let mut spec = one(node, arguments);
    spec["restartPolicy"] = "Never".into();
    spec
}

/// A container of the test image.
pub fn container(name: &str, arguments: &[&str]) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": arguments})
}

/// A Deployment of pods with this spec.
pub fn deployment(name: &str, replicas: usize, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// A Service for the pods labelled `app: name`, over TCP and UDP.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            ],
        },
    })
}
