//! The pod conditions that the node writes.
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::{DISRUPTION, Facts, RESIZING, RESTARTING, condition, owns_condition, time};
use crate::pod::decide::{is_resizing, reset_trigger};
use crate::spec;

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
    conditions.extend(restarting(pod, status, facts));
    conditions.extend(passing(pod, facts));
    let disrupted = facts.ended.filter(|end| end.disrupted);
    let others = facts.previous.conditions.iter().flatten().filter(|c| {
        let replaced = c.type_ == DISRUPTION && disrupted.is_some();
        !owns_condition(&c.type_) && !replaced
    });
    conditions.extend(others.cloned());
    conditions.extend(disrupted.map(|end| {
        let verdict =
            Verdict { ok: true, reason: Some("TerminationByKubelet"), message: Some(end.message.to_owned()) };
        finish(pod, DISRUPTION, verdict, facts)
    }));
    conditions
}

/// Pods with a rule that restarts all containers say whether that is under way.
fn restarting(pod: &Pod, status: &PodStatus, facts: &Facts<'_>) -> Option<PodCondition> {
    let containers = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let mut rules = containers.flat_map(|c| c.restart_policy_rules.iter().flatten());
    if !rules.any(|rule| rule.action == "RestartAllContainers") {
        return None;
    }
    let verdict = match status.phase.as_deref() {
        Some("Succeeded") => no("PodCompleted", String::new()),
        Some("Failed") => no("PodFailed", String::new()),
        _ if reset_trigger(pod, facts.observed).is_some() => Verdict {
            ok: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".into()),
        },
        _ => Verdict { ok: false, reason: None, message: None },
    };
    Some(finish(pod, RESTARTING, verdict, facts))
}

/// Conditions that are there only while they are true.
fn passing(pod: &Pod, facts: &Facts<'_>) -> Vec<PodCondition> {
    let condition = |kind: &str, reason: &str, message: &str, generation: Option<i64>| {
        let old = condition(facts.previous, kind);
        let since = old.and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: "True".into(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
            last_transition_time: since.or_else(|| Some(time(facts.now))),
            last_probe_time: None,
            observed_generation: generation,
        }
    };
    let generation = pod.metadata.generation;
    let mut all = Vec::new();
    all.extend(
        facts.pending.map(|(reason, message)| condition("PodResizePending", reason, message, generation)),
    );
    if is_resizing(pod, facts.observed, facts.memory) {
        let failure = facts.memory.resize_failure.as_ref();
        let (reason, message) = failure.map_or(("", ""), |f| (f.reason.as_str(), f.message.as_str()));
        all.push(condition(RESIZING, reason, message, facts.granted.or(generation)));
    }
    all
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
