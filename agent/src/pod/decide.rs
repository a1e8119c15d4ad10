//! What to do next for one pod, from what is wanted, what the runtime has and what is remembered. No IO, no clock.
mod end;
mod kill;
mod plan;
mod reset;
mod resize;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::observed::{Observed, State};
use crate::allocation::Size;
use crate::backoff::{Backoff, Nanos, Retry};
use crate::spec;
use end::{collect_garbage, stop_all, stop_running};
use kill::Kill;
use plan::{Plan, plan};
use reset::reset;
pub use reset::reset_trigger;
use resize::begin_resize;
pub use resize::is_resizing;

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

impl Failure {
    /// A `retry_at` that says: as the pod's task counts such failures, each time later.
    pub const BY_BACK_OFF: Nanos = 0;
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
    /// The next try of what has failed.
    pub retries: BTreeMap<Operation, Retry>,
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

impl Action {
    /// What it is under way as, if its next try is in [`Memory::retries`] alone.
    fn retried(&self) -> Option<Operation> {
        match self {
            Self::Stop { id, .. } | Self::StopSandbox { id } => Some(Operation::Stop(id.clone())),
            Self::RemoveContainer { id } | Self::RemoveSandbox { id } => Some(Operation::Remove(id.clone())),
            Self::Release => Some(Operation::Release),
            Self::CreateSandbox { .. } | Self::Start { .. } | Self::Resize => None,
        }
    }
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

    /// Withholds what has failed until its time has come.
    fn hold_back(&mut self, memory: &Memory, now: Nanos) {
        let mut wake = None;
        self.actions.retain(|action| {
            let retry = action.retried().and_then(|operation| memory.retries.get(&operation));
            let at = retry.map(|retry| retry.at).filter(|at| *at > now);
            wake = [wake, at].into_iter().flatten().min();
            at.is_none()
        });
        if let Some(wake) = wake {
            self.wake_at(wake);
        }
    }

    /// Stops a container, unless that is under way.
    fn stop(&mut self, kill: Kill, grace: Option<i64>, memory: &Memory) {
        if !memory.in_flight.contains(&Operation::Stop(kill.id.clone())) {
            let Kill { id, name, message, reason } = kill;
            self.actions.push(Action::Stop { id, name, grace, message, reason });
        }
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
    decision.hold_back(memory, now);
    decision
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
        decision.stop(kill, None, memory);
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
        if let Some(until) = exited.and_then(|c| backoff.until(c.ended_at, now)) {
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

/// A container that was made but never started, as its start was interrupted, gives its number to the one that takes its place; what is remembered of that number
/// is its log, which is opened before the start.
fn next_attempt(name: &str, observed: &Observed, memory: &Memory) -> u32 {
    let newest = observed.container(name);
    let unstarted = newest.filter(|c| c.state == State::Created).map(|c| c.restarts);
    let seen = unstarted.or(newest.map(|c| c.restarts + 1));
    let remembered = memory.restarts.get(name).filter(|n| unstarted != Some(**n)).map(|n| n + 1);
    seen.max(remembered).unwrap_or(0)
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

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
