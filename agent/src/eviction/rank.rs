use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;

use super::local::Files;
use super::signals::Signal;
use crate::cgroup::pod_requests;
use crate::stats::PodStats;

/// The least priority of `system-cluster-critical`.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A pod that may have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub priority: i32,
    /// What it uses of the scarce resource, and what it asked for.
    pub usage: u64,
    pub request: u64,
}

/// The pods that may be evicted, the first one to go first, where `files` says what of the disk each holds beside its writable layers: those that use more than they asked for, then by priority, then by how
/// much more. Static, critical and ended pods are not among them.
#[must_use]
pub fn rank<'a>(
    signal: Signal,
    pods: impl IntoIterator<Item = (&'a Pod, &'a PodStats)>,
    files: &Files,
) -> Vec<Candidate> {
    let evictable = pods.into_iter().filter(|(pod, _)| !is_exempt(pod));
    let mut candidates: Vec<Candidate> =
        evictable.map(|(pod, stats)| candidate(signal, pod, stats, files)).collect();
    candidates.sort_by_key(|candidate| {
        let above = i128::from(candidate.usage) - i128::from(candidate.request);
        // Process ids are not requested, so nobody uses more than that.
        let over = signal != Signal::PidAvailable && above > 0;
        (Reverse(over), candidate.priority, Reverse(above))
    });
    candidates
}

fn is_exempt(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let is_static = annotations.is_some_and(|annotations| {
        annotations.contains_key("kubernetes.io/config.mirror")
            || annotations.get("kubernetes.io/config.source").is_some_and(|source| source != "api")
    });
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|p| p >= CRITICAL_PRIORITY);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    is_static || critical || matches!(phase, Some("Succeeded" | "Failed"))
}

fn candidate(signal: Signal, pod: &Pod, stats: &PodStats, files: &Files) -> Candidate {
    let requests = pod_requests(pod);
    let request = |name: &str| requests.get(name).map_or(0, |amount| amount.value().max(0).unsigned_abs());
    // Writable layers, and the logs and volumes that lie on the same disk.
    let own = files.get(&stats.uid).copied();
    let written = || stats.containers.iter().filter_map(|container| container.writable).chain(own);
    let (usage, request) = match signal {
        Signal::MemoryAvailable => (stats.usage.memory_working_set.unwrap_or(0), request("memory")),
        Signal::NodefsAvailable | Signal::ImagefsAvailable | Signal::ContainerfsAvailable => {
            (written().map(|(bytes, _)| bytes).sum(), request("ephemeral-storage"))
        }
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree | Signal::ContainerfsInodesFree => {
            (written().map(|(_, inodes)| inodes).sum(), 0)
        }
        Signal::PidAvailable => (stats.processes.unwrap_or(0), 0),
    };
    Candidate {
        uid: stats.uid.clone(),
        name: stats.name.clone(),
        namespace: stats.namespace.clone(),
        priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
        usage,
        request,
    }
}
