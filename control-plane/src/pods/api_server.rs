use machine::paths::KUBERNETES_PKI;
use serde_json::{Value, json};

use super::{Mount, Pod, Probes, etcd, program};
use crate::flags::Flags;
use crate::input::{Input, socket};
use crate::layout::pki;

pub fn pod(input: &Input) -> (&'static str, Value) {
    let cluster = &input.cluster;
    let mut flags = Flags::default();
    flags
        .set("advertise-address", input.address.to_string())
        .set("secure-port", input.port.to_string())
        .set("allow-privileged", "true")
        .set("authorization-mode", "Node,RBAC")
        .set("enable-admission-plugins", "NodeRestriction")
        .set("enable-bootstrap-token-auth", "true")
        .set("client-ca-file", pki("ca.crt"))
        .set("tls-cert-file", pki("apiserver.crt"))
        .set("tls-private-key-file", pki("apiserver.key"))
        .set("kubelet-client-certificate", pki("apiserver-kubelet-client.crt"))
        .set("kubelet-client-key", pki("apiserver-kubelet-client.key"))
        .set("kubelet-certificate-authority", pki("kubelet-ca-bundle.crt"))
        .set("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname")
        .set("etcd-servers", etcd::client_url(input))
        .set("etcd-cafile", pki("etcd/ca.crt"))
        .set("etcd-certfile", pki("apiserver-etcd-client.crt"))
        .set("etcd-keyfile", pki("apiserver-etcd-client.key"))
        .set("service-cluster-ip-range", super::controller_manager::list(&cluster.service_cidrs))
        .set("service-account-issuer", format!("https://kubernetes.default.svc.{}", cluster.dns_domain))
        .set("service-account-key-file", pki("sa.pub"))
        .set("service-account-signing-key-file", pki("sa.key"))
        .set("requestheader-client-ca-file", pki("front-proxy-ca.crt"))
        .set("requestheader-allowed-names", "front-proxy-client")
        .set("requestheader-username-headers", "X-Remote-User")
        .set("requestheader-group-headers", "X-Remote-Group")
        .set("requestheader-extra-headers-prefix", "X-Remote-Extra-")
        .set("proxy-client-cert-file", pki("front-proxy-client.crt"))
        .set("proxy-client-key-file", pki("front-proxy-client.key"));
    let endpoint = socket(input.address, input.port);
    Pod {
        name: "kube-apiserver",
        component: &cluster.api_server,
        command: flags.command(&program("kube-apiserver"), &cluster.api_server),
        cpu: "100m",
        memory: "256Mi",
        mounts: vec![Mount::folder("pki", KUBERNETES_PKI, true)],
        probes: Probes {
            host: input.address.to_string(),
            port: input.port,
            scheme: "HTTPS",
            liveness: "/livez",
            readiness: Some("/readyz"),
        },
        annotations: json!({"kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": endpoint}),
    }
    .render()
}
