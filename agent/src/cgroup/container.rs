//! A container's limits as CRI takes them (pkg/kubelet/kuberuntime/kuberuntime_container_linux.go).
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};
use machine::cri::{HugepageLimit, LinuxContainerResources};

use super::cpu::{QUOTA_PERIOD_US, milli_cpu_to_quota, milli_cpu_to_shares};
use super::node::{NodeFacts, page_size_name};
use super::oom::oom_score_adj;
use super::quantity::Amount;
use super::requests::{limit_of, pod_level_limit};

/// The resources of one container, for its creation and for an in-place resize alike. A container without a limit of its own takes
/// the pod-level one.
#[must_use]
pub fn container_resources(pod: &Pod, container: &Container, node: &NodeFacts) -> LinuxContainerResources {
    let limit = |name: &str| {
        let own = limit_of(container, name);
        if own.is_zero() { pod_level_limit(pod, name) } else { own }
    };
    let cpu_limit = limit("cpu").milli_value();
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let cpu_request = requests.and_then(|requests| requests.get("cpu")).map(|q| Amount::of(q).milli_value());
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD_US,
        cpu_quota: milli_cpu_to_quota(cpu_limit),
        cpu_shares: milli_cpu_to_shares(cpu_request.unwrap_or(cpu_limit)).try_into().unwrap_or(i64::MAX),
        memory_limit_in_bytes: limit("memory").value(),
        oom_score_adj: oom_score_adj(pod, container, node.memory_capacity),
        hugepage_limits: hugepage_limits(pod, container, node),
        unified: unified(node),
        ..LinuxContainerResources::default()
    }
}

/// Each page size of the node with the container's limit, the pod-level one, or none.
#[must_use]
pub fn hugepage_limits(pod: &Pod, container: &Container, node: &NodeFacts) -> Vec<HugepageLimit> {
    let pod_level =
        pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|r| r.limits.as_ref());
    let own = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let mut named = BTreeMap::new();
    for (name, quantity) in pod_level.into_iter().flatten().chain(own.into_iter().flatten()) {
        if let Some(size) = name.strip_prefix("hugepages-").and_then(|size| Amount::parse(size).ok()) {
            named.insert(size.value().unsigned_abs(), Amount::of(quantity).value().unsigned_abs());
        }
    }
    let limits = node.huge_page_sizes.iter().map(|size| HugepageLimit {
        page_size: page_size_name(*size),
        limit: named.get(size).copied().unwrap_or(0),
    });
    limits.collect()
}

/// The whole container ends when one of its processes is killed for memory; no swap; no reservation of memory (the kubelet's
/// defaults on cgroup v2).
fn unified(node: &NodeFacts) -> HashMap<String, String> {
    let swap = node.swap_controller.then_some(("memory.swap.max", "0"));
    [("memory.oom.group", "1"), ("memory.min", "0"), ("memory.low", "0")]
        .into_iter()
        .chain(swap)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
