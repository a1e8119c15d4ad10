//! The status of one container.
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, Pod, VolumeMountStatus,
};

use super::{Facts, pod_is_deleted, time};
use crate::allocation::Size;
use crate::pod::observed::{self, State};
use crate::spec::{self, Kind};

pub(super) fn status(
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
        Some(newest) => from_observed(pod, container, kind, newest, old, facts),
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
    kind: Kind,
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
        state: Some(if matches!(c.state, State::Created | State::Unknown) {
            waiting(unstarted(pod, kind), None)
        } else {
            state(c)
        }),
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

/// Why a container that has not been started waits. A status may be seen between its creation and its start, too: kubelets look there only by chance.
fn unstarted(pod: &Pod, kind: Kind) -> &'static str {
    let waits_for_init = !spec::init_containers(pod).is_empty() && kind != Kind::Ephemeral;
    if waits_for_init { "PodInitializing" } else { "ContainerCreating" }
}

/// The status of a container that the runtime does not know: never started, or forgotten.
fn from_memory(
    pod: &Pod,
    container: &Container,
    kind: Kind,
    old: Option<&ContainerStatus>,
    facts: &Facts<'_>,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |o| o.restart_count),
        last_state: old.and_then(|o| o.last_state.clone()),
        state: Some(waiting(unstarted(pod, kind), None)),
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
            facts.memory.backoff.get(&container.name).map_or(0, |b| b.delay()) / crate::backoff::SECOND;
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
