//! The task of one pod: observe, decide, act, tell, wait for a reason to begin again.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use super::decide::{Decision, Failure, Memory, Operation, decide};
use super::observed::{self, Observed};
use super::resize::Resized;
use crate::allocation::Size;
use crate::backoff::{Nanos, SECOND};
use crate::clock::now;
use crate::context::Context;
use crate::parts::Parts;
use crate::pods::Source;
use crate::volumes::PodVolumes;

mod begin;
mod finish;
mod gone;
mod intent;
mod keep;
pub(crate) mod probes;
mod refresh;
mod tell;

/// Why a pod is ended by its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    pub message: String,
    /// Seconds.
    pub grace: i64,
    pub how: How,
}

/// What an end that the node decides makes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It failed.
    Failed,
    /// It failed for no fault of its own: its condition DisruptionTarget says so, and controllers replace it.
    Disrupted,
    /// Nothing: its containers stop, and run again when the machine is back.
    Paused,
}

/// What is wanted of a pod, as its sources say.
#[derive(Debug, Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    pub source: Source,
    /// Rejected, evicted, or stopped because the node shuts down.
    pub ended: Option<Ended>,
    /// Why the resources that its spec asks for are not granted; `pod` has what is.
    pub pending: Option<Pending>,
    /// The pod is no longer at its source.
    pub removed: bool,
    /// Where the status goes: the pod itself, or a static pod's mirror; `None` when there is none yet.
    pub api: Option<Arc<Pod>>,
}

/// A resize that the node has not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
}

/// The ways to reach a pod's task.
#[derive(Debug, Clone)]
pub struct Handle {
    pub desired: watch::Sender<Desired>,
    /// Something about the pod changed in the runtime, or in an object that it refers to.
    pub changed: Arc<Notify>,
    pub probes: Arc<probes::Results>,
}

#[expect(clippy::large_enum_variant, reason = "one at a time per pod, and handed on at once")]
enum Done {
    Sandbox(Result<PodVolumes, Failure>, Size),
    Started(String, u32, Result<String, Failure>, Size),
    Resized(Resized),
    Stopped(Result<(), Failure>),
    Removed(Result<(), Failure>),
    Released(Result<(), Failure>),
    Posted(PodStatus, Result<Box<Pod>, kube::Error>),
    Deleted(Result<(), kube::Error>),
    Refreshed(Result<PodVolumes, Failure>),
}

/// A pod's task.
pub struct Worker {
    ctx: Context,
    parts: Parts,
    uid: String,
    desired: watch::Receiver<Desired>,
    changed: Arc<Notify>,
    probes: Arc<probes::Results>,
    memory: Memory,
    observed: Observed,
    volumes: Option<PodVolumes>,
    preparing: Arc<tokio::sync::Mutex<()>>,
    refresh: refresh::Refresh,
    status: PodStatus,
    /// The status that the API server is known to have, and when it may be told another.
    posted: Option<PodStatus>,
    /// What the API server answered then.
    answered: Option<Box<Pod>>,
    posted_to: Option<String>,
    post_after: Nanos,
    posting: bool,
    deleting: bool,
    delete_after: Nanos,
    ended: Option<Ended>,
    tasks: JoinSet<Done>,
    running: HashMap<Id, (Operation, AbortHandle)>,
    watched: BTreeMap<String, ()>,
    last_grace: Option<i64>,
    remembered: Option<PodStatus>,
    /// The API server has the status.
    told: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Starts a pod's task; it ends when the pod is gone everywhere.
#[must_use]
pub fn spawn(ctx: Context, parts: Parts, desired: Desired, tasks: &mut JoinSet<String>) -> Handle {
    let (worker, handle) = new(ctx, parts, desired);
    tasks.spawn(worker.run());
    handle
}

fn new(ctx: Context, parts: Parts, desired: Desired) -> (Worker, Handle) {
    let uid = desired.pod.metadata.uid.clone().unwrap_or_default();
    let status = desired.api.as_ref().and_then(|p| p.status.clone());
    let status = status.or_else(|| keep::remembered(&uid)).unwrap_or_default();
    let mut memory = Memory::default();
    if let Some(allocation) = parts.allocations.get(&uid) {
        memory.actuated = allocation.actuated;
        memory.actuated_pod = allocation.actuated_pod;
    }
    let (desired, desired_rx) = watch::channel(desired);
    let probes = Arc::new(probes::Results::default());
    let changed = Arc::new(Notify::new());
    let worker = Worker {
        ctx,
        parts,
        uid,
        desired: desired_rx,
        changed: changed.clone(),
        probes: probes.clone(),
        memory,
        observed: Observed::default(),
        volumes: None,
        preparing: Arc::default(),
        refresh: refresh::Refresh::default(),
        posted: None,
        answered: None,
        status,
        posted_to: None,
        post_after: 0,
        posting: false,
        deleting: false,
        delete_after: 0,
        ended: None,
        tasks: JoinSet::new(),
        running: HashMap::new(),
        watched: BTreeMap::new(),
        last_grace: None,
        remembered: None,
        told: false,
    };
    (worker, Handle { desired, changed, probes })
}

impl Worker {
    async fn run(mut self) -> String {
        self.recall().await;
        let mut stale = true;
        let mut retry = None;
        let objects = self.ctx.objects.changes(&self.uid);
        let probes = self.probes.clone();
        let mut bundles = self.ctx.objects.trust_bundles.changes();
        let mut settings = self.ctx.settings.clone();
        loop {
            let desired = self.desired.borrow_and_update().clone();
            self.hold_objects(&desired);
            if stale {
                retry = match observed::read(&self.ctx.cri, &self.uid, &self.observed).await {
                    Ok(observed) => {
                        self.observed = observed;
                        stale = false;
                        None
                    }
                    Err(error) => {
                        tracing::debug!("pod {}: {error}", self.uid);
                        Some(now() + SECOND)
                    }
                };
            }
            let mut wake = retry;
            // Nothing is decided on what may no longer be so.
            if !stale {
                let decision = self.step(&desired);
                wake = [wake, decision.wake, self.tell(&desired, &decision)].into_iter().flatten().min();
                if self.is_over(&desired, &decision) {
                    break;
                }
            }
            let sleep = wake.map(|at| Duration::from_nanos((at - now()).max(1_000_000).unsigned_abs()));
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.refresh_fields(&desired);
                }
                () = self.changed.notified() => stale = true,
                () = probes.told() => self.probed(),
                Some(done) = self.tasks.join_next_with_id() => { self.finished(done); stale = true; }
                () = objects.notified() => self.objects_changed(&desired),
                Ok(()) = bundles.changed() => {
                    if crate::volumes::shows_trust_bundles(&desired.pod) {
                        self.refresh_volumes(&desired);
                    }
                }
                Ok(()) = settings.changed() => {}
                () = tokio::time::sleep(sleep.unwrap_or(Duration::from_secs(3600))) => {
                    self.refresh_when_due(&desired);
                }
            }
        }
        self.ctx.objects.forget(&self.uid);
        self.parts.probes.forget_pod(&self.uid);
        self.parts.images.forget(&self.uid);
        self.parts.allocations.forget(&self.uid);
        self.ctx.pods.remove(&self.uid);
        let _ = std::fs::remove_file(keep::memory_of(&self.uid));
        self.uid
    }

    /// What is still known of the pod's containers; their logs tell a part of it, and lie on a disk.
    async fn recall(&mut self) {
        let (pod, status) = (self.desired.borrow().pod.clone(), self.status.clone());
        let recall = tokio::task::spawn_blocking(move || keep::recall(&pod, &status));
        if let Ok((restarts, ended)) = recall.await {
            (self.memory.restarts, self.memory.ended) = (restarts, ended);
        }
    }

    /// Decides and begins what was decided.
    fn step(&mut self, desired: &Desired) -> Decision {
        self.end_if_told(desired);
        let intent = self.intent(desired);
        self.shorten_grace(&intent);
        self.forget_retries();
        let decision = decide(&desired.pod, &intent, &self.observed, &self.memory, now());
        for (name, until) in &decision.crash_loops {
            let failure = self.memory.failures.get(name);
            if failure.is_none_or(|f| f.retry_at < *until) {
                self.say_back_off(desired, name, *until);
            }
        }
        for action in &decision.actions {
            self.begin(desired, action);
        }
        if !decision.finished {
            self.memory.released = false;
        }
        self.watch_probes(desired);
        decision
    }
}

/// Bounds a request to the API server.
async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(Duration::from_secs(20), request).await {
        Ok(result) => result,
        Err(_) => Err(kube::Error::Service("no answer from the API server within 20 s".into())),
    }
}

#[cfg(test)]
mod tests;
