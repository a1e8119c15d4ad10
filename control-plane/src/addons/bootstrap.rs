//! What a new node needs to ask for its certificates, and the API server to reach kubelets.
use serde_json::{Value, json};

use crate::certificates::KUBELET_CLIENT;
use crate::input::Input;

/// The group that the bootstrap token authenticates as.
const BOOTSTRAPPERS: &str = "system:bootstrappers:pintle:default-node-token";

pub fn objects(input: &Input, kubelet_ca: &str) -> Vec<Value> {
    let cluster = &input.cluster;
    let (id, secret) = cluster.bootstrap_token.split_once('.').unwrap_or((&cluster.bootstrap_token, ""));
    let approval = |what: &str| format!("system:certificates.k8s.io:certificatesigningrequests:{what}");
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "description": "The bootstrap token of the machine config.",
                "token-id": id,
                "token-secret": secret,
                "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true",
                "auth-extra-groups": BOOTSTRAPPERS,
            },
        }),
        binding("pintle:kubelet-bootstrap", "system:node-bootstrapper", &group(BOOTSTRAPPERS)),
        binding("pintle:node-autoapprove-bootstrap", &approval("nodeclient"), &group(BOOTSTRAPPERS)),
        binding("pintle:node-autoapprove-rotation", &approval("selfnodeclient"), &group("system:nodes")),
        // The agent routes to other nodes' pods; the Node authorizer alone shows a node only itself.
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "pintle:node-routes"},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}],
        }),
        binding("pintle:node-routes", "pintle:node-routes", &group("system:nodes")),
        binding("pintle:apiserver-kubelet-client", "system:kubelet-api-admin", &user(KUBELET_CLIENT)),
        // What scrapes kubelets verifies them by it; the cluster's CA does not sign for kubelets.
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubelet-serving-ca", "namespace": "kube-system"},
            "data": {"ca.crt": kubelet_ca},
        }),
        // Anyone may read it, as kubeadm has it: clients that hold a bootstrap token verify the CA by the token's signature.
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": cluster_info(input)},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "pintle:cluster-info", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "pintle:cluster-info", "namespace": "kube-public"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pintle:cluster-info"},
            "subjects": [user("system:anonymous")],
        }),
    ]
}

fn cluster_info(input: &Input) -> String {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(&input.cluster.ca.certificate);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "server": input.cluster.control_plane_endpoint,
            "certificate-authority-data": ca,
        }}],
    })
    .to_string()
}

/// A ClusterRoleBinding of one subject.
pub fn binding(name: &str, role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    })
}

/// A ServiceAccount of kube-system as a subject.
pub fn service_account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": name})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name})
}
