use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authority::{CertificateAuthority, KeyPair};

/// The cluster that the machine belongs to. `pintle gen config` writes it; control-plane machines carry the keys, workers
/// only certificates and the token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    pub name: String,
    /// URL of the API server as every node reaches it, such as `https://10.5.0.10:6443`.
    pub control_plane_endpoint: String,
    /// Address ranges of pods, one per IP family.
    #[serde(default = "default_pod_cidrs", rename = "podCIDRs")]
    #[schemars(with = "Vec<String>")]
    pub pod_cidrs: Vec<IpNet>,
    /// Address ranges of Services, one per IP family.
    #[serde(default = "default_service_cidrs", rename = "serviceCIDRs")]
    #[schemars(with = "Vec<String>")]
    pub service_cidrs: Vec<IpNet>,
    /// Who connects pods, on every node: `builtin`, a bridge with routes between nodes, or `cni`, the plugins in /opt/cni/bin with the first network
    /// configuration in /etc/cni/net.d, which the cluster's administrator installs. Takes effect when the runtime starts.
    #[serde(default)]
    pub pod_network: PodNetworkKind,
    #[serde(default = "default_dns_domain")]
    pub dns_domain: String,
    /// The cluster CA; its key only on control-plane machines.
    pub ca: CertificateAuthority,
    /// Bootstrap token `xxxxxx.yyyyyyyyyyyyyyyy`, with which an agent asks for its first certificate.
    pub bootstrap_token: String,
    /// etcd's CA; control-plane machines only.
    #[serde(default, rename = "etcdCA", skip_serializing_if = "Option::is_none")]
    pub etcd_ca: Option<CertificateAuthority>,
    /// The CA of the API server's aggregation layer; control-plane machines only.
    #[serde(default, rename = "frontProxyCA", skip_serializing_if = "Option::is_none")]
    pub front_proxy_ca: Option<CertificateAuthority>,
    /// The CA that signs the serving certificates of kubelets; control-plane machines only. A machine without it makes one and keeps it.
    #[serde(default, rename = "kubeletServingCA", skip_serializing_if = "Option::is_none")]
    pub kubelet_serving_ca: Option<CertificateAuthority>,
    /// The key pair that signs service account tokens; control-plane machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<KeyPair>,
    /// Further DNS names and IP addresses for the API server's certificate.
    #[serde(default, rename = "apiServerCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub api_server_cert_sans: Vec<String>,
    /// Whether pods without a toleration may run on control-plane nodes.
    #[serde(default)]
    pub schedule_on_control_plane: bool,
    #[serde(default)]
    pub etcd: Component,
    #[serde(default)]
    pub api_server: Component,
    #[serde(default)]
    pub controller_manager: Component,
    #[serde(default)]
    pub scheduler: Component,
    #[serde(default)]
    pub proxy: Component,
    #[serde(default)]
    pub dns: Component,
}

/// Who connects pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PodNetworkKind {
    /// Pintle itself.
    #[default]
    Builtin,
    /// CNI plugins.
    Cni,
}

/// A component of the control plane or an add-on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Image to run instead of the shipped one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Flags without the leading dashes; they replace Pintle's own of the same name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_args: BTreeMap<String, String>,
    /// True leaves the add-on (`proxy`, `dns`) out; not allowed for the control plane's own components.
    #[serde(default)]
    pub disabled: bool,
}

fn default_pod_cidrs() -> Vec<IpNet> {
    "10.244.0.0/16".parse().into_iter().collect()
}

fn default_service_cidrs() -> Vec<IpNet> {
    "10.96.0.0/12".parse().into_iter().collect()
}

fn default_dns_domain() -> String {
    "cluster.local".into()
}
