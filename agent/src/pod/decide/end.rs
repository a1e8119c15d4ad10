//! Stopping what runs, in order, and removing what has ended.
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::kill::Kill;
use super::{Action, Decision, Memory, Observed, Operation, State, spec};
use crate::pod::observed::Container;
use crate::spec::is_sidecar;

/// Ends a pod: what runs of it, then what it holds on the node.
pub(super) fn stop_all(
    pod: &Pod,
    grace: Option<i64>,
    observed: &Observed,
    memory: &Memory,
    decision: &mut Decision,
) {
    decision.finished = true;
    if !stop_running(pod, grace, observed, memory, decision) {
        return;
    }
    if memory.released {
        decision.gone = true;
    } else if !memory.in_flight.contains(&Operation::Release) {
        decision.actions.push(Action::Release);
    }
}

/// Stops containers, sidecars after them and in reverse order, then the sandbox. Answers whether nothing runs any more.
pub(super) fn stop_running(
    pod: &Pod,
    grace: Option<i64>,
    observed: &Observed,
    memory: &Memory,
    decision: &mut Decision,
) -> bool {
    let sidecar_index =
        |name: &str| spec::init_containers(pod).iter().position(|c| c.name == name && is_sidecar(c));
    let running: Vec<&Container> = observed.containers.iter().filter(|c| c.state == State::Running).collect();
    let main: Vec<&&Container> = running.iter().filter(|c| sidecar_index(&c.name).is_none()).collect();
    let now: Vec<&Container> = if main.is_empty() {
        running.iter().max_by_key(|c| sidecar_index(&c.name)).copied().into_iter().collect()
    } else {
        main.into_iter().copied().collect()
    };
    for container in now {
        let why = Kill {
            id: container.id.clone(),
            name: container.name.clone(),
            message: String::new(),
            reason: None,
        };
        decision.stop(why, grace, memory);
    }
    if !running.is_empty() {
        return false;
    }
    let ready: Vec<_> = observed.sandboxes.iter().filter(|s| s.ready).collect();
    for sandbox in &ready {
        if !memory.in_flight.contains(&Operation::Stop(sandbox.id.clone())) {
            decision.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
    ready.is_empty()
        && !memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_) | Operation::Sandbox))
}

/// One ended container per name is kept for its logs, and the newest sandbox.
pub(super) fn collect_garbage(observed: &Observed, memory: &Memory, decision: &mut Decision) {
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    let mut newest: BTreeSet<&str> = BTreeSet::new();
    for container in &observed.containers {
        let is_newest = newest.insert(&container.name);
        let keep = match container.state {
            State::Running => true,
            State::Exited => ended.insert(&container.name),
            State::Created | State::Unknown => is_newest,
        };
        let remove = Action::RemoveContainer { id: container.id.clone() };
        let busy = memory.in_flight.contains(&Operation::Remove(container.id.clone()));
        if !keep && !busy && !decision.actions.contains(&remove) {
            decision.actions.push(remove);
        }
    }
    for sandbox in observed.sandboxes.iter().skip(1) {
        let used = observed.containers.iter().any(|c| c.sandbox == sandbox.id);
        if sandbox.ready {
            let stop = Action::StopSandbox { id: sandbox.id.clone() };
            let busy = memory.in_flight.contains(&Operation::Stop(sandbox.id.clone()));
            let running =
                observed.containers.iter().any(|c| c.sandbox == sandbox.id && c.state == State::Running);
            if !busy && !running && !decision.actions.contains(&stop) {
                decision.actions.push(stop);
            }
        } else if !used && !memory.in_flight.contains(&Operation::Remove(sandbox.id.clone())) {
            decision.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}
