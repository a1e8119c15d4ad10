//! A pod's status, computed from spec, runtime and memory: the same words and rules as the kubelet's.
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::backoff::Nanos;
use super::decide::{Decision, Memory};
use super::observed::{self, Observed, State};
use super::spec::{self, Kind};
use crate::allocation::Size;

pub(super) mod conditions;
mod phase;

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
            container(pod, c, kind, previous.init_container_statuses.as_deref(), facts)
        })
        .collect();
    let mut apps: Vec<ContainerStatus> = spec::spec(pod)
        .containers
        .iter()
        .map(|c| container(pod, c, Kind::App, previous.container_statuses.as_deref(), facts))
        .collect();
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ephemeral: Vec<ContainerStatus> = spec::ephemeral_containers(pod)
        .iter()
        .map(|e| {
            let c = spec::from_ephemeral(e);
            container(pod, &c, Kind::Ephemeral, previous.ephemeral_container_statuses.as_deref(), facts)
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

fn container(
    pod: &Pod,
    container: &Container,
    kind: Kind,
    previous: Option<&[ContainerStatus]>,
    facts: &Facts<'_>,
) -> ContainerStatus {
    let old = previous.unwrap_or_default().iter().find(|s| s.name == container.name);
    let mut instances = facts.observed.containers.iter().filter(|c| c.name == container.name);
    let newest = instances.next();
    let mut status = match newest {
        Some(newest) => from_observed(pod, container, newest, old, facts),
        None => from_memory(pod, container, kind, old, facts),
    };
    if let Some(last) = instances.next() {
        status.last_state = Some(state(last));
    } else if newest.is_some_and(|n| old.is_some_and(|o| o.container_id.as_deref() == Some(&container_id(n))))
    {
        status.last_state = old.and_then(|o| o.last_state.clone());
    } else if let (Some(_), Some(terminated)) =
        (newest, old.and_then(|o| o.state.as_ref()).and_then(|s| s.terminated.clone()))
    {
        status.last_state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
    }
    wait_reason(pod, container, kind, newest, facts, &mut status);
    readiness(container, kind, newest, facts, old, &mut status);
    status.volume_mounts = volume_mounts(container);
    status
}

fn container_id(container: &observed::Container) -> String {
    format!("{}://{}", RUNTIME_NAME, container.id)
}

/// The scheme of container ids in statuses.
pub const RUNTIME_NAME: &str = "pintle";

fn from_observed(
    pod: &Pod,
    spec: &Container,
    c: &observed::Container,
    old: Option<&ContainerStatus>,
    facts: &Facts<'_>,
) -> ContainerStatus {
    let actual = facts.memory.actuated.get(&spec.name).filter(|_| c.state == State::Running);
    let own = Size::of_container(pod, spec);
    let restarts = i32::try_from(c.restarts).unwrap_or(i32::MAX);
    ContainerStatus {
        name: c.name.clone(),
        image: if c.image.is_empty() { spec.image.clone().unwrap_or_default() } else { c.image.clone() },
        image_id: c.image_ref.clone(),
        container_id: Some(container_id(c)),
        restart_count: restarts.max(old.map_or(0, |o| o.restart_count)),
        state: Some(state(c)),
        resources: actual.unwrap_or(&own).over(spec.resources.as_ref(), &own),
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        user: c.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
            }),
        }),
        ..Default::default()
    }
}

fn state(c: &observed::Container) -> ContainerState {
    match c.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(time(c.started_at)) }),
            ..Default::default()
        },
        State::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(container_id(c)),
                exit_code: c.exit_code,
                reason: Some(reason(c)),
                message: (!c.message.is_empty()).then(|| c.message.clone()),
                started_at: Some(time(c.started_at)),
                finished_at: Some(time(c.finished_at)),
                signal: None,
            }),
            ..Default::default()
        },
        State::Created | State::Unknown => {
            ContainerState { waiting: Some(ContainerStateWaiting::default()), ..Default::default() }
        }
    }
}

fn reason(c: &observed::Container) -> String {
    match (c.reason.is_empty(), c.exit_code) {
        (false, _) => c.reason.clone(),
        (true, 0) => "Completed".into(),
        (true, _) => "Error".into(),
    }
}

/// The status of a container that the runtime does not know: never started, or forgotten.
fn from_memory(
    pod: &Pod,
    container: &Container,
    kind: Kind,
    old: Option<&ContainerStatus>,
    facts: &Facts<'_>,
) -> ContainerStatus {
    let waits_for_init = !spec::init_containers(pod).is_empty() && kind != Kind::Ephemeral;
    let default_reason = if waits_for_init { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |o| o.restart_count),
        last_state: old.and_then(|o| o.last_state.clone()),
        state: Some(waiting(default_reason, None)),
        resources: container.resources.clone(),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        ..Default::default()
    };
    let app_created =
        || spec::spec(pod).containers.iter().any(|c| facts.observed.container(&c.name).is_some());
    let Some(old_state) = old.and_then(|o| o.state.as_ref()) else {
        if kind == Kind::Init && app_created() {
            status.state = Some(inferred_completion());
        }
        return status;
    };
    if old_state.terminated.is_some() {
        return old.cloned().unwrap_or(status);
    }
    if kind == Kind::Init && app_created() {
        status.state = Some(inferred_completion());
    } else if old_state.running.is_some() && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none())
    {
        let terminated = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running".into(),
            ),
            ..Default::default()
        };
        status.last_state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        if !pod_is_deleted(pod) {
            status.restart_count += 1;
        }
    }
    status
}

fn inferred_completion() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 0,
        reason: Some("Completed".into()),
        message: Some(
            "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
                .into(),
        ),
        ..Default::default()
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

/// A container that will be started again waits, and says for what.
fn wait_reason(
    pod: &Pod,
    container: &Container,
    kind: Kind,
    newest: Option<&observed::Container>,
    facts: &Facts<'_>,
    status: &mut ContainerStatus,
) {
    if facts.decision.finished {
        return;
    }
    let to_start = match newest {
        None => status.state.as_ref().is_some_and(|s| s.terminated.is_none()),
        Some(c) if c.state == State::Running => false,
        Some(c) if c.state != State::Exited => true,
        Some(c) if kind == Kind::Init => c.exit_code != 0 && spec::restarts(pod, container, c.exit_code),
        Some(_) if kind == Kind::Ephemeral => false,
        Some(c) => spec::restarts(pod, container, c.exit_code),
    };
    if !to_start {
        return;
    }
    let failure = facts.memory.failures.get(&container.name).map(|f| (f.reason.as_str(), f.message.clone()));
    let crash = facts.decision.crash_loops.contains_key(&container.name).then(|| {
        let delay =
            facts.memory.backoff.get(&container.name).map_or(0, |b| b.delay()) / super::backoff::SECOND;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let message = format!(
            "back-off {} restarting failed container={} pod={name}_{namespace}({uid})",
            go_duration(delay),
            container.name
        );
        ("CrashLoopBackOff", message)
    });
    let Some((reason, message)) = crash.or(failure) else { return };
    if let Some(terminated) = status.state.take().filter(|s| s.terminated.is_some()) {
        status.last_state = Some(terminated);
    }
    status.state = Some(waiting(reason, (!message.is_empty()).then_some(message)));
}

/// Seconds as Go prints a duration: `10s`, `1m20s`.
#[must_use]
pub fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn readiness(
    container: &Container,
    kind: Kind,
    newest: Option<&observed::Container>,
    facts: &Facts<'_>,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let terminated_well =
        status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    if kind == Kind::Ephemeral {
        status.ready = false;
        return;
    }
    if kind == Kind::Init {
        status.ready = terminated_well;
        status.started = Some(status.state.as_ref().is_some_and(|s| s.running.is_some()));
        return;
    }
    let Some(running) = newest
        .filter(|c| c.state == State::Running && status.state.as_ref().is_some_and(|s| s.running.is_some()))
    else {
        status.ready = false;
        status.started = Some(false);
        return;
    };
    // Until this agent's probes have spoken, what was last told of the same container still holds.
    let same = old.filter(|o| o.container_id.as_deref() == Some(&container_id(running)));
    let probes = facts.memory.probes.get(&running.id).copied().unwrap_or_default();
    let started = container.startup_probe.is_none()
        || probes.startup.unwrap_or_else(|| same.and_then(|o| o.started).unwrap_or(false));
    status.started = Some(started);
    status.ready = started
        && (container.readiness_probe.is_none()
            || probes.readiness.unwrap_or_else(|| same.is_some_and(|o| o.ready)));
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .as_deref()
        .unwrap_or_default()
        .iter()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only.filter(|ro| *ro),
            recursive_read_only: m.read_only.filter(|ro| *ro).map(|_| {
                if m.recursive_read_only.as_deref() == Some("Enabled") { "Enabled" } else { "Disabled" }
                    .into()
            }),
            ..Default::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
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
