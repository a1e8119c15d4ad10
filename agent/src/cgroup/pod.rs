//! What the cgroups of pods and of the tiers above them say (pkg/kubelet/cm/helpers_linux.go ResourceConfigForPod,
//! node_container_manager_linux.go, qos_container_manager_linux.go).
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use machine::cri::LinuxContainerResources;

use super::cpu::{QUOTA_PERIOD_US, cpu_weight, milli_cpu_to_quota, milli_cpu_to_shares};
use super::node::NodeFacts;
use super::qos::{QosClass, qos_class};
use super::quantity::Amount;
use super::requests::{Amounts, limit_of, pod_level_limit, pod_limits, pod_requests};

/// Limits of one cgroup; what is `None` is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupConfig {
    pub cpu_shares: Option<u64>,
    /// Microseconds per 100 ms; not positive: no limit.
    pub cpu_quota: Option<i64>,
    /// Bytes; 0: left as it is.
    pub memory_max: Option<i64>,
    pub pids_max: Option<i64>,
    /// Bytes by page size in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Further cgroup files by name.
    pub unified: BTreeMap<String, String>,
}

impl CgroupConfig {
    /// Whether any of what this names of CPU and memory is more than `other` has; no limit is the most.
    #[must_use]
    pub fn exceeds(&self, other: &Self) -> bool {
        let limit = |value: Option<i64>| value.filter(|v| *v > 0).unwrap_or(i64::MAX);
        (self.cpu_quota.is_some() && limit(self.cpu_quota) > limit(other.cpu_quota))
            || (self.memory_max.is_some_and(|m| m > 0) && limit(self.memory_max) > limit(other.memory_max))
            || self
                .cpu_shares
                .is_some_and(|shares| cpu_weight(shares) > other.cpu_shares.map_or(0, cpu_weight))
    }

    /// The files to write, by name, in an order that the kernel accepts.
    #[must_use]
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        if let Some(shares) = self.cpu_shares {
            files.push(("cpu.weight".to_owned(), cpu_weight(shares).to_string()));
        }
        if let Some(quota) = self.cpu_quota {
            let limit = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            files.push(("cpu.max".to_owned(), format!("{limit} {QUOTA_PERIOD_US}")));
        }
        if let Some(memory) = self.memory_max.filter(|memory| *memory > 0) {
            files.push(("memory.max".to_owned(), memory.to_string()));
        }
        if let Some(pids) = self.pids_max {
            let limit = if pids > 0 { pids.to_string() } else { "max".to_owned() };
            files.push(("pids.max".to_owned(), limit));
        }
        for (size, limit) in &self.huge_pages {
            let name = super::node::page_size_name(*size);
            files.push((format!("hugetlb.{name}.max"), limit.to_string()));
            files.push((format!("hugetlb.{name}.rsvd.max"), limit.to_string()));
        }
        files.extend(self.unified.iter().map(|(name, value)| (name.clone(), value.clone())));
        files
    }
}

/// The limits of a pod's own cgroup.
#[must_use]
pub fn pod_config(pod: &Pod, node: &NodeFacts) -> CgroupConfig {
    let requests = pod_requests(pod);
    let limits = pod_limits(pod);
    let amount = |list: &Amounts, name: &str| list.get(name).copied().unwrap_or_default();
    let shares = milli_cpu_to_shares(amount(&requests, "cpu").milli_value());
    let quota = milli_cpu_to_quota(amount(&limits, "cpu").milli_value());
    let memory = amount(&limits, "memory").value();
    let mut config = CgroupConfig {
        huge_pages: huge_pages(&requests, node),
        pids_max: (node.pod_pids_limit > 0).then_some(node.pod_pids_limit),
        ..CgroupConfig::default()
    };
    match qos_class(pod) {
        QosClass::Guaranteed => {
            config.cpu_shares = Some(shares);
            config.cpu_quota = Some(quota);
            config.memory_max = Some(memory);
        }
        QosClass::Burstable => {
            config.cpu_shares = Some(shares);
            config.cpu_quota = limit_declared(pod, "cpu").then_some(quota);
            config.memory_max = limit_declared(pod, "memory").then_some(memory);
        }
        QosClass::BestEffort => config.cpu_shares = Some(2),
    }
    config
}

/// The `resources` of a CRI sandbox config: what its containers may use together, without the overhead.
#[must_use]
pub fn pod_sandbox_resources(pod: &Pod) -> LinuxContainerResources {
    let mut bare = pod.clone();
    if let Some(spec) = &mut bare.spec {
        spec.overhead = None;
    }
    let requests = pod_requests(&bare);
    let limits = pod_limits(&bare);
    let milli = |list: &Amounts| list.get("cpu").map(|amount| amount.milli_value());
    let limit = milli(&limits).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_US,
        cpu_quota: milli_cpu_to_quota(limit),
        cpu_shares: milli_cpu_to_shares(milli(&requests).unwrap_or(limit)).try_into().unwrap_or(i64::MAX),
        memory_limit_in_bytes: limits.get("memory").map_or(0, |amount| amount.value()),
        ..LinuxContainerResources::default()
    }
}

/// The limits of `/kubepods`: capacity less what is reserved for the system and for Kubernetes' daemons.
#[must_use]
pub fn kubepods(allocatable_without_eviction: &Amounts, node: &NodeFacts) -> CgroupConfig {
    let get = |name: &str| allocatable_without_eviction.get(name).copied();
    CgroupConfig {
        cpu_shares: get("cpu").map(|amount| milli_cpu_to_shares(amount.milli_value())),
        memory_max: get("memory").map(Amount::value),
        pids_max: get("pid").map(Amount::value),
        huge_pages: huge_pages(allocatable_without_eviction, node),
        unified: [("memory.min", "0"), ("memory.low", "0")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..CgroupConfig::default()
    }
}

/// The limits of `/kubepods/burstable`: the CPU requests of all its pods that are not finished; to be refreshed when pods come and go.
#[must_use]
pub fn burstable_tier<'a>(active: impl IntoIterator<Item = &'a Pod>, node: &NodeFacts) -> CgroupConfig {
    let burstable = active.into_iter().filter(|pod| qos_class(pod) == QosClass::Burstable);
    let milli = burstable.fold(0_i64, |sum, pod| {
        let request = pod_requests(pod).get("cpu").copied().unwrap_or_default();
        sum.saturating_add(request.milli_value())
    });
    CgroupConfig {
        cpu_shares: Some(milli_cpu_to_shares(milli)),
        huge_pages: unbounded_huge_pages(node),
        unified: BTreeMap::from([("memory.low".to_owned(), "0".to_owned())]),
        ..CgroupConfig::default()
    }
}

/// The limits of `/kubepods/besteffort`: always the least CPU weight.
#[must_use]
pub fn besteffort_tier(node: &NodeFacts) -> CgroupConfig {
    CgroupConfig { cpu_shares: Some(2), huge_pages: unbounded_huge_pages(node), ..CgroupConfig::default() }
}

fn unbounded_huge_pages(node: &NodeFacts) -> BTreeMap<u64, u64> {
    node.huge_page_sizes.iter().map(|size| (*size, 1 << 62)).collect()
}

/// Each page size of the node: what the list names, otherwise none.
fn huge_pages(amounts: &Amounts, node: &NodeFacts) -> BTreeMap<u64, u64> {
    let mut sizes: BTreeMap<u64, u64> = node.huge_page_sizes.iter().map(|size| (*size, 0)).collect();
    for (name, amount) in amounts {
        let size = name.strip_prefix("hugepages-").and_then(|size| Amount::parse(size).ok());
        if let Some(limit) = size.and_then(|size| sizes.get_mut(&size.value().unsigned_abs())) {
            *limit = amount.value().unsigned_abs();
        }
    }
    sizes
}

/// Whether every container, or the pod itself, has a limit for the resource.
fn limit_declared(pod: &Pod, name: &str) -> bool {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let all = containers.into_iter().all(|container| !limit_of(container, name).is_zero());
    all || !pod_level_limit(pod, name).is_zero()
}
