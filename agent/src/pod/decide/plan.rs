//! What a pod that shall run needs next: a sandbox, its init containers in order, sidecars, and then its containers.
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::kill::Kill;
use super::reset::reset_trigger;
use super::resize::{Resize, resize};
use super::{Memory, Observed, State, spec};
use crate::pod::observed::Container;
use crate::spec::is_sidecar;

pub(super) enum Plan {
    Finish,
    NewSandbox {
        attempt: u32,
    },
    /// All containers begin anew because the one with this id ended.
    Reset {
        trigger: String,
    },
    Run {
        start: Vec<String>,
        kill: Vec<Kill>,
    },
}

pub(super) fn plan(pod: &Pod, observed: &Observed, memory: &Memory) -> Plan {
    let apps = &spec::spec(pod).containers;
    let needs_ip = !spec::host_network(pod);
    let usable = observed.current().filter(|s| !needs_ip || !s.ips.is_empty());
    if usable.is_none() {
        let attempt = observed.sandboxes.first().map_or(0, |s| s.attempt + 1);
        // Whatever the runtime has forgotten, a pod that may run only once has run.
        let ran = if observed.sandboxes.is_empty() {
            !memory.restarts.is_empty()
        } else {
            !observed.containers.is_empty()
        };
        if spec::restart_policy(pod) == "Never" && ran {
            return Plan::Finish;
        }
        let initialized =
            apps.iter().any(|c| observed.container(&c.name).is_some() || memory.ended.contains_key(&c.name));
        let none_left = apps.iter().all(|c| ended_for_good(pod, c, observed, memory));
        if initialized && none_left {
            return Plan::Finish;
        }
        return Plan::NewSandbox { attempt };
    }
    if let Some(trigger) = reset_trigger(pod, observed) {
        return Plan::Reset { trigger: trigger.id.clone() };
    }
    let mut start: Vec<String> = spec::ephemeral_containers(pod)
        .iter()
        .filter(|c| observed.container(&c.name).is_none())
        .map(|c| c.name.clone())
        .collect();
    let mut kill = Vec::new();
    match plan_init(pod, observed, memory, &mut start, &mut kill) {
        Init::Failed => return Plan::Finish,
        Init::Running => return Plan::Run { start, kill },
        Init::Done => {}
    }
    let sidecars = start.len();
    let mut kept = 0;
    for container in apps {
        match plan_app(pod, container, observed, memory) {
            App::Keep => kept += 1,
            App::Ended => {}
            App::Start => start.push(container.name.clone()),
            App::Kill { why, restart } => {
                if restart {
                    kept += 1;
                }
                kill.push(why);
            }
        }
    }
    if kept == 0 && start.len() == sidecars { Plan::Finish } else { Plan::Run { start, kill } }
}

fn ended_for_good(pod: &Pod, container: &Spec, observed: &Observed, memory: &Memory) -> bool {
    let code = match observed.container(&container.name) {
        Some(last) => (last.state == State::Exited).then_some(last.exit_code),
        None => memory.ended.get(&container.name).copied(),
    };
    code.is_some_and(|code| !spec::restarts(pod, container, code))
}

enum Init {
    Done,
    Running,
    Failed,
}

/// Goes through the init containers from the last to the first: the last one that was ever started tells how far the pod is.
fn plan_init(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    start: &mut Vec<String>,
    kill: &mut Vec<Kill>,
) -> Init {
    let init = spec::init_containers(pod);
    if init.is_empty() {
        return Init::Done;
    }
    let app_started = spec::spec(pod)
        .containers
        .iter()
        .any(|c| observed.active(&c.name).is_some_and(|c| matches!(c.state, State::Running | State::Exited)));
    let mut done = app_started;
    let mut reached = app_started;
    let mut found: Vec<String> = Vec::new();
    for (index, container) in init.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(status) = observed.active(&container.name) else {
            if reached && sidecar {
                found.push(container.name.clone());
            }
            continue;
        };
        if reached && !sidecar {
            continue;
        }
        let mut passed = false;
        match status.state {
            State::Created | State::Unknown => found.push(container.name.clone()),
            State::Running if !sidecar => {}
            State::Running => {
                passed = plan_running_sidecar(pod, container, status, memory, &mut found, kill);
            }
            State::Exited if sidecar => found.push(container.name.clone()),
            State::Exited if status.exit_code == 0 => passed = true,
            State::Exited => {
                if !spec::restarts(pod, container, status.exit_code) {
                    return Init::Failed;
                }
                found.push(container.name.clone());
            }
        }
        if passed {
            match init.get(index + 1) {
                None => done = true,
                Some(next) if !reached => found.push(next.name.clone()),
                Some(_) => {}
            }
        }
        reached = true;
    }
    if !reached {
        found.extend(init.first().map(|c| c.name.clone()));
    }
    found.reverse();
    start.append(&mut found);
    if done { Init::Done } else { Init::Running }
}

/// Whether a running sidecar counts as started, so that the next container may follow.
fn plan_running_sidecar(
    pod: &Pod,
    container: &Spec,
    status: &Container,
    memory: &Memory,
    found: &mut Vec<String>,
    kill: &mut Vec<Kill>,
) -> bool {
    let probes = memory.probes.get(&status.id).copied().unwrap_or_default();
    let mut end = |message: String, reason| {
        kill.push(Kill { id: status.id.clone(), name: container.name.clone(), message, reason });
    };
    if container.startup_probe.is_some() {
        match probes.startup {
            Some(true) => {}
            Some(false) => {
                end(format!("Init container {} failed startup probe", container.name), Some("StartupProbe"));
                found.push(container.name.clone());
                return false;
            }
            None => return false,
        }
    }
    if changed(container, status) {
        end(format!("Init container {} definition changed", container.name), None);
    } else if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        end(format!("Init container {} failed liveness probe", container.name), Some("LivenessProbe"));
    } else if resize(pod, container, memory) == Resize::Restart {
        end(format!("Container {} resize requires restart", container.name), None);
    }
    true
}

enum App {
    Keep,
    Ended,
    Start,
    Kill { why: Kill, restart: bool },
}

fn plan_app(pod: &Pod, container: &Spec, observed: &Observed, memory: &Memory) -> App {
    let Some(status) = observed.container(&container.name) else {
        return if ended_for_good(pod, container, observed, memory) { App::Ended } else { App::Start };
    };
    match status.state {
        State::Running => {}
        State::Created | State::Unknown => return App::Start,
        State::Exited if spec::restarts(pod, container, status.exit_code) => return App::Start,
        State::Exited => return App::Ended,
    }
    let probes = memory.probes.get(&status.id).copied().unwrap_or_default();
    let restart = spec::restarts_after_kill(pod, container);
    let (message, reason, restart) = if changed(container, status) {
        (format!("Container {} definition changed", container.name), None, true)
    } else if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        (format!("Container {} failed liveness probe", container.name), Some("LivenessProbe"), restart)
    } else if container.startup_probe.is_some() && probes.startup == Some(false) {
        (format!("Container {} failed startup probe", container.name), Some("StartupProbe"), restart)
    } else if resize(pod, container, memory) == Resize::Restart {
        let message = format!("Container {} resize requires restart", container.name);
        let why = Kill { id: status.id.clone(), name: container.name.clone(), message, reason: None };
        return App::Kill { why, restart: true };
    } else {
        return App::Keep;
    };
    let message = if restart { format!("{message}, will be restarted") } else { message };
    App::Kill { why: Kill { id: status.id.clone(), name: container.name.clone(), message, reason }, restart }
}

fn changed(container: &Spec, status: &Container) -> bool {
    !status.hash.is_empty() && status.hash != spec::hash(container)
}
