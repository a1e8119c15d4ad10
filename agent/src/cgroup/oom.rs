//! `oom_score_adj` of containers (pkg/kubelet/qos/policy.go).
use k8s_openapi::api::core::v1::{Container, Pod};

use super::qos::{QosClass, qos_class};
use super::quantity::Amount;
use super::requests::{container_requests, is_restartable, request_of};

const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;
/// The least priority of `system-node-critical`.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

/// Whether the pod has the priority of `system-node-critical`.
#[must_use]
pub fn is_node_critical(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY)
}

/// The score of one container; `memory_capacity` is the node's memory in bytes.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if is_node_critical(pod) {
        return GUARANTEED;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => GUARANTEED,
        QosClass::BestEffort => BEST_EFFORT,
        QosClass::Burstable => burstable(pod, container, memory_capacity),
    }
}

fn burstable(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let spread = spread_of_pod_request(pod);
    let score = |request: i64| {
        1000 - 1000_i64.saturating_mul(request.saturating_add(spread)) / memory_capacity.max(1)
    };
    let mut adjust = score(request_of(container, "memory").value());
    let spec = pod.spec.as_ref();
    let is_sidecar = is_restartable(container)
        && spec.is_some_and(|spec| {
            spec.init_containers.iter().flatten().any(|other| other.name == container.name)
        });
    if is_sidecar {
        let requests = spec.iter().flat_map(|spec| &spec.containers);
        let least = requests.map(|other| request_of(other, "memory").value()).min().unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    match adjust {
        ..=3 => 1000 + GUARANTEED,
        BEST_EFFORT => BEST_EFFORT - 1,
        _ => adjust,
    }
}

/// The part of a pod-level memory request that no container claims, divided among all containers.
fn spread_of_pod_request(pod: &Pod) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some(total) = requests.and_then(|requests| requests.get("memory")).map(Amount::of) else { return 0 };
    let claimed = container_requests(pod).get("memory").copied().unwrap_or_default();
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    (total - claimed).value().max(0) / i64::try_from(count.max(1)).unwrap_or(1)
}
