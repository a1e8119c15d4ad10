//! Starting all containers anew because one of them ended (restartPolicyRules, RestartAllContainers).
use k8s_openapi::api::core::v1::Pod;

use super::kill::Kill;
use super::{Action, Decision, Memory, Observed, Operation, State, spec};
use crate::pod::observed::Container;

/// The container whose end starts all containers anew (restartPolicyRules, RestartAllContainers).
#[must_use]
pub fn reset_trigger<'a>(pod: &Pod, observed: &'a Observed) -> Option<&'a Container> {
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    all.filter_map(|c| Some((c, observed.active(&c.name)?)))
        .find(|(c, seen)| seen.state == State::Exited && spec::restarts_all(c, seen.exit_code))
        .map(|(_, seen)| seen)
}

/// Stops and then removes all containers; the one that began this goes last, so that it is gone on with after an interruption.
pub(super) fn reset(pod: &Pod, trigger: &str, observed: &Observed, memory: &Memory, decision: &mut Decision) {
    let all = || spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let (own, _): (Vec<&Container>, Vec<&Container>) =
        observed.containers.iter().partition(|seen| all().any(|c| c.name == seen.name));
    let running: Vec<&&Container> = own.iter().filter(|c| c.state == State::Running).collect();
    for container in &running {
        let message = format!("Container {} is restarted with all containers", container.name);
        let why = Kill { id: container.id.clone(), name: container.name.clone(), message, reason: None };
        decision.stop(why, None, memory);
    }
    if !running.is_empty() || memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_))) {
        return;
    }
    let others = own.iter().filter(|c| c.id != trigger).count();
    for container in own.iter().filter(|c| others == 0 || c.id != trigger) {
        if !memory.in_flight.contains(&Operation::Remove(container.id.clone())) {
            decision.actions.push(Action::RemoveContainer { id: container.id.clone() });
        }
    }
}
