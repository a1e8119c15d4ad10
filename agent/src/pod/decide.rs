//! What to do next for one pod, from what is wanted, what the runtime has and what is remembered. No IO, no clock.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::backoff::{Backoff, Nanos};
use super::observed::{Container, Observed, State};
use super::spec::{self, is_sidecar};
use crate::allocation::{Size, resizable};

/// What is wanted of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    Run,
    /// End it: deleted, evicted, past its deadline, or the node shuts down. `grace` in seconds.
    Stop {
        grace: i64,
    },
    /// Stop its containers and its sandbox and keep everything else: it runs again when the machine is back. `grace` in seconds.
    Pause {
        grace: i64,
    },
}

impl Intent {
    /// Seconds that containers get to end, if they are to end.
    #[must_use]
    pub fn grace(&self) -> Option<i64> {
        match self {
            Self::Run => None,
            Self::Stop { grace } | Self::Pause { grace } => Some(*grace),
        }
    }
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
    Resize,
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
    /// Restart counts of containers whose last instance the runtime may have forgotten, as it does when the machine boots.
    pub restarts: BTreeMap<String, u32>,
    /// Exit codes of containers that had ended when the pod's task began, as their status says.
    pub ended: BTreeMap<String, i32>,
    /// Volumes and cgroup of an ended pod are gone.
    pub released: bool,
    /// The size in force of containers, by name, and of the pod's cgroup; what is not known is taken to be as it should.
    pub actuated: BTreeMap<String, Size>,
    pub actuated_pod: Option<Size>,
    /// The last resize that did not succeed.
    pub resize_failure: Option<Failure>,
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
    /// Makes running containers and the pod's cgroup the size that the pod was granted.
    Resize,
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
        Intent::Pause { grace } => {
            stop_running(pod, Some(*grace), observed, memory, &mut decision);
        }
        Intent::Run => match plan(pod, observed, memory) {
            Plan::Reset { trigger } => reset(pod, &trigger, observed, memory, &mut decision),
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

fn plan(pod: &Pod, observed: &Observed, memory: &Memory) -> Plan {
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

/// The container whose end starts all containers anew (restartPolicyRules, RestartAllContainers).
#[must_use]
pub fn reset_trigger<'a>(pod: &Pod, observed: &'a Observed) -> Option<&'a Container> {
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    all.filter_map(|c| Some((c, observed.active(&c.name)?)))
        .find(|(c, seen)| seen.state == State::Exited && spec::restarts_all(c, seen.exit_code))
        .map(|(_, seen)| seen)
}

/// Stops and then removes all containers; the one that began this goes last, so that it is gone on with after an interruption.
fn reset(pod: &Pod, trigger: &str, observed: &Observed, memory: &Memory, decision: &mut Decision) {
    let all = || spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let (own, _): (Vec<&Container>, Vec<&Container>) =
        observed.containers.iter().partition(|seen| all().any(|c| c.name == seen.name));
    let running: Vec<&&Container> = own.iter().filter(|c| c.state == State::Running).collect();
    for container in &running {
        if !memory.in_flight.contains(&Operation::Stop(container.id.clone())) {
            decision.actions.push(Action::Stop {
                id: container.id.clone(),
                name: container.name.clone(),
                grace: None,
                message: format!("Container {} is restarted with all containers", container.name),
                reason: None,
            });
        }
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

#[derive(PartialEq)]
enum Resize {
    No,
    InPlace,
    Restart,
}

fn resize(pod: &Pod, container: &Spec, memory: &Memory) -> Resize {
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
fn begin_resize(
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
    let mut starting = begin_resize(pod, observed, memory, now, decision)
        || memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_) | Operation::Sandbox));
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
        stop_running(pod, None, observed, memory, decision);
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

/// Ends a pod: what runs of it, then what it holds on the node.
fn stop_all(pod: &Pod, grace: Option<i64>, observed: &Observed, memory: &Memory, decision: &mut Decision) {
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
fn stop_running(
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

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
