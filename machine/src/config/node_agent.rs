use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// [`NodeAgent::pod_pids_limit`] by default. A pod that forks without end then holds some 300 MiB of kernel memory at most, which count as its own, and the
/// node's own processes always find a pid; programs with thousands of threads run. CRI-O and OpenShift have the same figure for the same reason.
const POD_PIDS_LIMIT: i64 = 4096;

/// Settings of the node agent; where the kubelet has the same setting, it has the kubelet's name and, but for `podPidsLimit`, its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeAgent {
    /// The node's address is the first one of the machine inside one of these ranges. Default: the default route's source.
    #[serde(rename = "nodeIPSubnets", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub node_ip_subnets: Vec<IpNet>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_with_taints: Vec<Taint>,
    pub max_pods: u32,
    /// Largest number of processes and threads in a pod; -1: no limit, which is the kubelet's default and lets one pod fork until the node is full.
    pub pod_pids_limit: i64,
    /// Reserved for Kubernetes' daemons: `cpu`, `memory`, `ephemeral-storage`, `pid`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kube_reserved: BTreeMap<String, String>,
    /// Reserved for the OS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub system_reserved: BTreeMap<String, String>,
    /// Hard eviction thresholds by signal.
    pub eviction_hard: BTreeMap<String, String>,
    /// Quantity, such as `10Mi`.
    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    /// Seconds that all pods together get at shutdown.
    pub shutdown_grace_period_seconds: u32,
    /// The part of it that is kept for critical pods.
    pub shutdown_grace_period_critical_pods_seconds: u32,
    pub serialize_image_pulls: bool,
    /// Whether a pod may use an image that is on the machine already without showing that it could pull it.
    pub image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy,
    /// Images that `NeverVerifyAllowlistedImages` lets everybody use, without tag and digest; `/*` at the end stands for all below a path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Percent of the images' file system in use from which on unused images are removed.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    /// Percent in use at which that is enough.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    /// Seconds for which an image stays after it was first seen.
    #[serde(rename = "imageMinimumGCAgeSeconds")]
    pub image_minimum_gc_age_seconds: u32,
    /// Seconds after which an unused image is removed however much space there is; 0: never.
    #[serde(rename = "imageMaximumGCAgeSeconds")]
    pub image_maximum_gc_age_seconds: u32,
    /// Kubernetes feature gates of the kubelet that Pintle knows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
}

impl Default for NodeAgent {
    fn default() -> Self {
        let eviction = [
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("nodefs.inodesFree", "5%"),
            ("imagefs.available", "15%"),
            ("imagefs.inodesFree", "5%"),
        ];
        Self {
            node_ip_subnets: Vec::new(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            max_pods: 110,
            pod_pids_limit: POD_PIDS_LIMIT,
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            eviction_hard: eviction.map(|(signal, value)| (signal.into(), value.into())).into(),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            shutdown_grace_period_seconds: 60,
            shutdown_grace_period_critical_pods_seconds: 20,
            serialize_image_pulls: false,
            image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy::default(),
            preloaded_images_verification_allowlist: Vec::new(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age_seconds: 120,
            image_maximum_gc_age_seconds: 0,
            feature_gates: BTreeMap::new(),
        }
    }
}

/// Of which images that are there already a pod must show that it could pull them (KEP-2535).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullCredentialsVerificationPolicy {
    /// Of none.
    NeverVerify,
    /// Of those that were pulled for pods.
    #[default]
    NeverVerifyPreloadedImages,
    /// Of all but those on `preloadedImagesVerificationAllowlist` that were not pulled for pods.
    NeverVerifyAllowlistedImages,
    /// Of all.
    AlwaysVerify,
}

/// A taint that the node registers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}
