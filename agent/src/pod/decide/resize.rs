//! Whether what runs has the size the pod was granted, and the beginning of a resize.
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::{Action, Decision, Memory, Observed, Operation, State};
use crate::allocation::{Size, resizable};
use crate::backoff::Nanos;

#[derive(PartialEq)]
pub(super) enum Resize {
    No,
    InPlace,
    Restart,
}

pub(super) fn resize(pod: &Pod, container: &Spec, memory: &Memory) -> Resize {
    let wanted = Size::of_container(pod, container);
    match memory.actuated.get(&container.name) {
        Some(actual) if actual.restarts(&wanted, container) => Resize::Restart,
        Some(actual) if *actual != wanted => Resize::InPlace,
        _ => Resize::No,
    }
}

/// Whether something that runs has another size than the pod was granted.
#[must_use]
pub fn is_resizing(pod: &Pod, observed: &Observed, memory: &Memory) -> bool {
    let runs = |c: &&Spec| observed.active(&c.name).is_some_and(|c| c.state == State::Running);
    let containers = resizable(pod).filter(runs).any(|c| resize(pod, c, memory) != Resize::No);
    let whole = memory.actuated_pod.is_some_and(|actual| actual != Size::of_pod(pod));
    observed.current().is_some() && (containers || whole)
}

/// Begins a resize once nothing has to end for it. Answers whether containers must wait for it with their start.
pub(super) fn begin_resize(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    now: Nanos,
    decision: &mut Decision,
) -> bool {
    if memory.in_flight.contains(&Operation::Resize) {
        return true;
    }
    if !is_resizing(pod, observed, memory) {
        return false;
    }
    if let Some(failure) = memory.resize_failure.as_ref().filter(|f| f.retry_at > now) {
        decision.wake_at(failure.retry_at);
        return false;
    }
    let stops = decision.actions.iter().any(|action| matches!(action, Action::Stop { .. }))
        || memory.in_flight.iter().any(|operation| matches!(operation, Operation::Stop(_)));
    if !stops {
        decision.actions.push(Action::Resize);
    }
    true
}
