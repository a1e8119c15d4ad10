//! What to do next for one pod, from what is wanted, what the runtime has and what is remembered. No IO, no clock.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::backoff::{Backoff, Nanos};
use super::observed::{Container, Observed, State};
use super::spec::{self, is_sidecar};

/// What is wanted of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    Run,
    /// End it: deleted, evicted, past its deadline, or the node shuts down. `grace` in seconds.
    Stop {
        grace: i64,
    },
}

/// What probes said about one container; `None` until a probe has a result. A container without the probe has no entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Probes {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

/// Something under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Sandbox,
    /// By container name.
    Start(String),
    /// By CRI id, of a container or a sandbox.
    Stop(String),
    Remove(String),
    Release,
}

/// A failed try, to be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// When to try again.
    pub retry_at: Nanos,
}

/// What the pod's task remembers beyond what the runtime holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub in_flight: BTreeSet<Operation>,
    /// Crash back-off by container name.
    pub backoff: BTreeMap<String, Backoff>,
    /// By CRI container id.
    pub probes: BTreeMap<String, Probes>,
    /// The last failure to start, by container name.
    pub failures: BTreeMap<String, Failure>,
    /// The last failure to make the sandbox or its volumes.
    pub sandbox_failure: Option<Failure>,
    /// Containers whose last instance may have vanished from the runtime: name to restart count.
    pub restarts: BTreeMap<String, u32>,
    /// Volumes and cgroup of an ended pod are gone.
    pub released: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    Start {
        name: String,
        attempt: u32,
    },
    Stop {
        id: String,
        name: String,
        grace: Option<i64>,
        message: String,
        reason: Option<&'static str>,
    },
    RemoveContainer {
        id: String,
    },
    /// Unmounts volumes and removes the cgroup of a pod that has ended.
    Release,
}

/// The answer of [`decide`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// When to decide again although nothing happened.
    pub wake: Option<Nanos>,
    /// Containers held back by their crash back-off, until when.
    pub crash_loops: BTreeMap<String, Nanos>,
    /// No container of the pod will ever run (again); its containers are being, or have been, stopped.
    pub finished: bool,
    /// Nothing runs any more, and everything held is released.
    pub gone: bool,
}

impl Decision {
    fn wake_at(&mut self, at: Nanos) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Decides. Actions of one answer may be done in any order and at once.
#[must_use]
pub fn decide(pod: &Pod, intent: &Intent, observed: &Observed, memory: &Memory, now: Nanos) -> Decision {
    let mut decision = Decision::default();
    match intent {
        Intent::Stop { grace } => stop_all(pod, Some(*grace), observed, memory, &mut decision),
        Intent::Run => match plan(pod, observed, memory) {
            Plan::Finish => stop_all(pod, None, observed, memory, &mut decision),
            Plan::NewSandbox { attempt } => new_sandbox(pod, attempt, observed, memory, now, &mut decision),
            Plan::Run { start, kill } => run(pod, start, kill, observed, memory, now, &mut decision),
        },
    }
    collect_garbage(observed, memory, &mut decision);
    decision
}

/// A container to stop, and why.
struct Kill {
    id: String,
    name: String,
    message: String,
    reason: Option<&'static str>,
}

enum Plan {
    Finish,
    NewSandbox { attempt: u32 },
    Run { start: Vec<String>, kill: Vec<Kill> },
}

fn plan(pod: &Pod, observed: &Observed, memory: &Memory) -> Plan {
    let apps = &spec::spec(pod).containers;
    let needs_ip = !spec::host_network(pod);
    let usable = observed.current().filter(|s| !needs_ip || !s.ips.is_empty());
    if usable.is_none() {
        let attempt = observed.sandboxes.first().map_or(0, |s| s.attempt + 1);
        if spec::restart_policy(pod) == "Never" && attempt != 0 && !observed.containers.is_empty() {
            return Plan::Finish;
        }
        let initialized = apps.iter().any(|c| observed.container(&c.name).is_some());
        let none_left = apps.iter().all(|c| ended_for_good(pod, c, observed));
        if initialized && none_left {
            return Plan::Finish;
        }
        return Plan::NewSandbox { attempt };
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

fn ended_for_good(pod: &Pod, container: &Spec, observed: &Observed) -> bool {
    let last = observed.container(&container.name).filter(|c| c.state == State::Exited);
    last.is_some_and(|c| !spec::restarts(pod, container, c.exit_code))
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
                passed = plan_running_sidecar(container, status, memory, &mut found, kill);
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
    let Some(status) = observed.container(&container.name) else { return App::Start };
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
    } else {
        return App::Keep;
    };
    let message = if restart { format!("{message}, will be restarted") } else { message };
    App::Kill { why: Kill { id: status.id.clone(), name: container.name.clone(), message, reason }, restart }
}

fn changed(container: &Spec, status: &Container) -> bool {
    !status.hash.is_empty() && status.hash != spec::hash(container)
}

fn run(
    pod: &Pod,
    start: Vec<String>,
    kill: Vec<Kill>,
    observed: &Observed,
    memory: &Memory,
    now: Nanos,
    decision: &mut Decision,
) {
    for kill in kill {
        if !memory.in_flight.contains(&Operation::Stop(kill.id.clone())) {
            decision.actions.push(Action::Stop {
                id: kill.id,
                name: kill.name,
                grace: None,
                message: kill.message,
                reason: kill.reason,
            });
        }
    }
    // One at a time and in order, as the kubelet does; one that must wait does not hold up those behind it.
    let mut starting = memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_) | Operation::Sandbox));
    for name in start {
        let last = observed.container(&name);
        if last.is_some_and(|c| c.state == State::Running) {
            continue;
        }
        let exited = last.filter(|c| c.state == State::Exited);
        let backoff = memory.backoff.get(&name).copied().unwrap_or_default();
        if let Some(until) = exited.and_then(|c| backoff.until(c.finished_at, now)) {
            decision.crash_loops.insert(name.clone(), until);
            decision.wake_at(until);
            if spec::find(pod, &name).is_some_and(|(kind, _)| kind == spec::Kind::Init) {
                break;
            }
            continue;
        }
        if let Some(failure) = memory.failures.get(&name).filter(|f| f.retry_at > now) {
            decision.wake_at(failure.retry_at);
            if spec::find(pod, &name).is_some_and(|(kind, _)| kind == spec::Kind::Init) {
                break;
            }
            continue;
        }
        if !starting {
            starting = true;
            decision.actions.push(Action::Start { attempt: next_attempt(&name, observed, memory), name });
        }
    }
}

fn next_attempt(name: &str, observed: &Observed, memory: &Memory) -> u32 {
    let seen = observed.container(name).map(|c| c.restarts + 1);
    seen.into_iter().chain(memory.restarts.get(name).map(|n| n + 1)).max().unwrap_or(0)
}

fn new_sandbox(
    pod: &Pod,
    attempt: u32,
    observed: &Observed,
    memory: &Memory,
    now: Nanos,
    decision: &mut Decision,
) {
    if observed.anything_runs() {
        stop_all(pod, None, observed, memory, decision);
        decision.finished = false;
        decision.gone = false;
        decision.actions.retain(|action| *action != Action::Release);
        return;
    }
    if memory.in_flight.contains(&Operation::Sandbox) {
        return;
    }
    match memory.sandbox_failure.as_ref().filter(|f| f.retry_at > now) {
        Some(failure) => decision.wake_at(failure.retry_at),
        None => decision.actions.push(Action::CreateSandbox { attempt }),
    }
}

/// Ends a pod: its containers, sidecars after them and in reverse order, then the sandbox, then what the pod holds on the node.
fn stop_all(pod: &Pod, grace: Option<i64>, observed: &Observed, memory: &Memory, decision: &mut Decision) {
    decision.finished = true;
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
        if !memory.in_flight.contains(&Operation::Stop(container.id.clone())) {
            decision.actions.push(Action::Stop {
                id: container.id.clone(),
                name: container.name.clone(),
                grace,
                message: String::new(),
                reason: None,
            });
        }
    }
    if !running.is_empty() {
        return;
    }
    let ready: Vec<_> = observed.sandboxes.iter().filter(|s| s.ready).collect();
    for sandbox in &ready {
        if !memory.in_flight.contains(&Operation::Stop(sandbox.id.clone())) {
            decision.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
    if !ready.is_empty()
        || memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_) | Operation::Sandbox))
    {
        return;
    }
    if memory.released {
        decision.gone = true;
    } else if !memory.in_flight.contains(&Operation::Release) {
        decision.actions.push(Action::Release);
    }
}

/// One ended container per name is kept for its logs, and the newest sandbox.
fn collect_garbage(observed: &Observed, memory: &Memory, decision: &mut Decision) {
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    let mut newest: BTreeSet<&str> = BTreeSet::new();
    for container in &observed.containers {
        let is_newest = newest.insert(&container.name);
        let keep = match container.state {
            State::Running => true,
            State::Exited => ended.insert(&container.name),
            State::Created | State::Unknown => is_newest,
        };
        if !keep && !memory.in_flight.contains(&Operation::Remove(container.id.clone())) {
            decision.actions.push(Action::RemoveContainer { id: container.id.clone() });
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

#[cfg(test)]
mod tests;
