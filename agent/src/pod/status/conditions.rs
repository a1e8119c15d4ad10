//! The pod conditions that the node writes.
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::{Facts, condition, owns_condition, time};
use crate::pod::spec;

struct Verdict {
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

const TRUE: Verdict = Verdict { ok: true, reason: None, message: None };

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { ok: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
}

/// All conditions: this node's, and those of others untouched.
pub(super) fn all(pod: &Pod, status: &PodStatus, facts: &Facts<'_>) -> Vec<PodCondition> {
    let containers = containers_ready(pod, status);
    let ready = if containers.ok {
        gates(pod, facts.previous)
    } else {
        no(containers.reason.unwrap_or_default(), containers.message.clone().unwrap_or_default())
    };
    let verdicts = [
        ("PodReadyToStartContainers", sandbox(pod, facts)),
        ("Initialized", initialized(pod, status)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", TRUE),
    ];
    let mut conditions: Vec<PodCondition> =
        verdicts.into_iter().map(|(kind, verdict)| finish(pod, kind, verdict, facts)).collect();
    let others = facts.previous.conditions.iter().flatten().filter(|c| !owns_condition(&c.type_));
    conditions.extend(others.cloned());
    conditions
}

fn finish(pod: &Pod, kind: &str, verdict: Verdict, facts: &Facts<'_>) -> PodCondition {
    let value = if verdict.ok { "True" } else { "False" };
    let old = condition(facts.previous, kind).filter(|c| c.status == value);
    PodCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: old
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(time(facts.now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn sandbox(pod: &Pod, facts: &Facts<'_>) -> Verdict {
    match facts.observed.sandboxes.first() {
        None => no("PodSandboxNotReady", "No sandbox for pod can be found. Need to start a new one".into()),
        Some(s) if !s.ready => {
            no("PodSandboxNotReady", "No ready sandbox for pod can be found. Need to start a new one".into())
        }
        Some(s) if s.ips.is_empty() && !spec::host_network(pod) => {
            no("PodSandboxNotReady", "Sandbox for pod has no IP address. Need to start a new one".into())
        }
        Some(_) => TRUE,
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn find<'a>(statuses: Option<&'a Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|s| s.name == name)
}

fn initialized(pod: &Pod, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { ok: true, reason: Some("PodCompleted"), message: None };
    }
    if status.container_statuses.iter().flatten().any(super::has_started) {
        return TRUE;
    }
    let incomplete: Vec<&str> = spec::init_containers(pod)
        .iter()
        .filter(|c| {
            find(status.init_container_statuses.as_ref(), &c.name)
                .is_none_or(|s| if spec::is_sidecar(c) { s.started != Some(true) } else { !s.ready })
        })
        .map(|c| c.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return TRUE;
    }
    no("ContainersNotInitialized", format!("containers with incomplete status: {}", list(&incomplete)))
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return no("PodCompleted", String::new()),
        Some("Failed") => return no("PodFailed", String::new()),
        _ => {}
    }
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let sidecars = sidecars.map(|c| (&c.name, find(status.init_container_statuses.as_ref(), &c.name)));
    let apps = spec::spec(pod).containers.iter();
    let apps = apps.map(|c| (&c.name, find(status.container_statuses.as_ref(), &c.name)));
    let unready: Vec<&str> = sidecars
        .chain(apps)
        .filter(|(_, s)| s.is_none_or(|s| !s.ready))
        .map(|(name, _)| name.as_str())
        .collect();
    if unready.is_empty() {
        return TRUE;
    }
    no("ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
}

fn gates(pod: &Pod, previous: &PodStatus) -> Verdict {
    let mut unready = Vec::new();
    for gate in spec::spec(pod).readiness_gates.iter().flatten() {
        match condition(previous, &gate.condition_type) {
            None => unready.push(format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            )),
            Some(c) if c.status != "True" => unready.push(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, c.status
            )),
            Some(_) => {}
        }
    }
    if unready.is_empty() { TRUE } else { no("ReadinessGatesNotReady", unready.join(", ")) }
}
