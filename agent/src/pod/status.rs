//! A pod's status, computed from spec, runtime and memory: the same words and rules as the kubelet's.
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::decide::{Decision, Memory};
use super::observed::{Observed, State};
use crate::backoff::Nanos;
use crate::spec::{self, Kind};

pub(super) mod conditions;
mod container;
mod phase;

pub use container::RUNTIME_NAME;

/// What a status is computed from, beyond the pod itself.
#[derive(Debug)]
pub struct Facts<'a> {
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub decision: &'a Decision,
    /// The status before this one: the API server's, with what this agent has computed since.
    pub previous: &'a PodStatus,
    pub host_ips: &'a [String],
    pub qos_class: &'a str,
    pub ended: Option<End<'a>>,
    /// Why a resize is not granted: reason and message.
    pub pending: Option<(&'a str, &'a str)>,
    /// The generation that the last granted resize has.
    pub granted: Option<i64>,
    pub now: Nanos,
}

/// Why the pod was ended by this node.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub reason: &'a str,
    pub message: &'a str,
    /// Through no fault of its own.
    pub disrupted: bool,
}

/// `Time` of nanoseconds since the epoch, in whole seconds as the API server keeps it.
#[must_use]
pub fn time(nanos: Nanos) -> Time {
    Time(Timestamp::from_second(nanos.div_euclid(1_000_000_000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Computes the status.
#[must_use]
pub fn compute(pod: &Pod, facts: &Facts<'_>) -> PodStatus {
    let previous = facts.previous;
    let init: Vec<ContainerStatus> = spec::init_containers(pod)
        .iter()
        .map(|c| {
            let kind = if spec::is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
            container::status(pod, c, kind, previous.init_container_statuses.as_deref(), facts)
        })
        .collect();
    let mut apps: Vec<ContainerStatus> = spec::spec(pod)
        .containers
        .iter()
        .map(|c| container::status(pod, c, Kind::App, previous.container_statuses.as_deref(), facts))
        .collect();
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ephemeral: Vec<ContainerStatus> = spec::ephemeral_containers(pod)
        .iter()
        .map(|e| {
            let c = spec::from_ephemeral(e);
            container::status(
                pod,
                &c,
                Kind::Ephemeral,
                previous.ephemeral_container_statuses.as_deref(),
                facts,
            )
        })
        .collect();
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    let initialized = apps.iter().any(has_started);
    let phase = if facts.ended.is_some() && !pod_is_deleted(pod) {
        "Failed"
    } else {
        phase::phase(pod, &init, &apps, facts.decision.finished, initialized)
    };
    // A terminal phase is final, and it is told only when nothing runs any more.
    let still_running = facts.observed.containers.iter().any(|c| c.state == State::Running);
    let phase = match previous.phase.as_deref() {
        Some(last @ ("Succeeded" | "Failed")) => last,
        last if still_running && matches!(phase, "Succeeded" | "Failed") => last.unwrap_or("Pending"),
        _ => phase,
    };
    let sandbox_ips: Vec<String> = if spec::host_network(pod) {
        facts.host_ips.to_vec()
    } else {
        facts.observed.current().map(|s| s.ips.clone()).unwrap_or_default()
    };
    let terminal = matches!(phase, "Succeeded" | "Failed");
    let keep_ips = sandbox_ips.is_empty() && (terminal || facts.decision.finished);
    let pod_ips = if keep_ips {
        previous.pod_ips.clone()
    } else {
        Some(sandbox_ips.into_iter().map(|ip| PodIP { ip }).collect())
    }
    .filter(|ips: &Vec<PodIP>| !ips.is_empty());
    let non_empty = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    // What was said of a pod's end holds as long as it has ended; one that a shutdown stopped runs again.
    let kept = |text: &Option<String>| text.clone().filter(|_| matches!(phase, "Failed" | "Succeeded"));
    let mut status = PodStatus {
        conditions: None,
        container_statuses: non_empty(apps),
        init_container_statuses: non_empty(init),
        ephemeral_container_statuses: non_empty(ephemeral),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect())
            .filter(|ips: &Vec<HostIP>| !ips.is_empty()),
        pod_ip: pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.clone()),
        pod_ips,
        phase: Some(phase.to_owned()),
        qos_class: previous.qos_class.clone().or_else(|| Some(facts.qos_class.to_owned())),
        start_time: previous.start_time.clone().or_else(|| Some(time(facts.now))),
        observed_generation: pod.metadata.generation,
        reason: facts.ended.map(|end| end.reason.to_owned()).or_else(|| kept(&previous.reason)),
        message: facts.ended.map(|end| end.message.to_owned()).or_else(|| kept(&previous.message)),
        nominated_node_name: previous.nominated_node_name.clone(),
        resize: previous.resize.clone(),
        resource_claim_statuses: previous.resource_claim_statuses.clone(),
        ..Default::default()
    };
    status.conditions = Some(conditions::all(pod, &status, facts));
    status
}

fn pod_is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn has_started(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    let last = status.last_state.as_ref();
    state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        || last.is_some_and(|s| s.terminated.is_some())
}

/// Whether a condition of this type is the agent's to write.
#[must_use]
pub fn owns_condition(kind: &str) -> bool {
    matches!(
        kind,
        "PodReadyToStartContainers"
            | "Initialized"
            | "ContainersReady"
            | "Ready"
            | "PodScheduled"
            | "PodResizePending"
            | RESIZING
            | RESTARTING
    )
}

/// The condition of a pod whose containers all begin anew.
const RESTARTING: &str = "AllContainersRestarting";
/// The condition of a pod whose containers are not yet the size that it was granted.
pub const RESIZING: &str = "PodResizeInProgress";
/// The condition of a pod that its node, a controller or a preempting pod ended.
pub const DISRUPTION: &str = "DisruptionTarget";

/// The condition of this type.
#[must_use]
pub fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_deref()?.iter().find(|c| c.type_ == kind)
}

#[cfg(test)]
mod tests;
