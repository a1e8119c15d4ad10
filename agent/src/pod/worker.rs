//! The task of one pod: observe, decide, act, tell, wait for a reason to begin again.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use super::backoff::{Nanos, SECOND};
use super::decide::{Action, Decision, Failure, Intent, Memory, Operation, decide};
use super::observed::{self, Observed, State};
use super::spec::{self, Kind};
use super::start::{Scene, now};
use super::status::{self, Facts};
use crate::context::Context;
use crate::events::Kind as Severity;
use crate::parts::Parts;
use crate::pods::{PodEntry, Source};
use crate::probe;
use crate::status_patch::status_patch;
use crate::volumes::PodVolumes;

/// Why a pod is ended by its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    pub message: String,
    /// Seconds.
    pub grace: i64,
}

/// What is wanted of a pod, as its sources say.
#[derive(Debug, Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    pub source: Source,
    /// Rejected, evicted, or stopped because the node shuts down.
    pub ended: Option<Ended>,
    /// The pod is no longer at its source.
    pub removed: bool,
    /// Where the status goes: the pod itself, or a static pod's mirror; `None` when there is none yet.
    pub api: Option<Arc<Pod>>,
}

/// The ways to reach a pod's task.
#[derive(Debug, Clone)]
pub struct Handle {
    pub desired: watch::Sender<Desired>,
    /// Something about the pod changed in the runtime, or in an object that it refers to.
    pub changed: Arc<Notify>,
    pub probes: mpsc::Sender<probe::Changed>,
}

#[expect(clippy::large_enum_variant, reason = "one at a time per pod, and handed on at once")]
enum Done {
    Sandbox(Result<PodVolumes, Failure>),
    Started(String, u32, Result<String, Failure>),
    Stopped(Result<(), Failure>),
    Removed,
    Released(Result<(), Failure>),
    Posted(PodStatus, Result<(), kube::Error>),
    Deleted(Result<(), kube::Error>),
    Refreshed(Option<PodVolumes>),
}

/// A pod's task.
pub struct Worker {
    ctx: Context,
    parts: Parts,
    uid: String,
    desired: watch::Receiver<Desired>,
    changed: Arc<Notify>,
    probes: mpsc::Receiver<probe::Changed>,
    memory: Memory,
    observed: Observed,
    volumes: Option<PodVolumes>,
    status: PodStatus,
    /// The status that the API server is known to have, and when it may be told another.
    posted: Option<PodStatus>,
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
}

/// Where the status of static pods is kept while the machine is up.
const MEMORY: &str = "/run/pintle/agent";

fn memory_of(uid: &str) -> std::path::PathBuf {
    std::path::Path::new(MEMORY).join(format!("{}.status", uid.replace('/', "_")))
}

fn remembered(uid: &str) -> Option<PodStatus> {
    serde_json::from_slice(&std::fs::read(memory_of(uid)).ok()?).ok()
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Starts a pod's task; it ends when the pod is gone everywhere.
#[must_use]
pub fn spawn(ctx: Context, parts: Parts, desired: Desired, tasks: &mut JoinSet<String>) -> Handle {
    let uid = desired.pod.metadata.uid.clone().unwrap_or_default();
    let status = desired.api.as_ref().and_then(|p| p.status.clone());
    let status = status.or_else(|| remembered(&uid)).unwrap_or_default();
    let (desired, desired_rx) = watch::channel(desired);
    let (probes, probes_rx) = mpsc::channel(32);
    let changed = Arc::new(Notify::new());
    let worker = Worker {
        ctx,
        parts,
        uid,
        desired: desired_rx,
        changed: changed.clone(),
        probes: probes_rx,
        memory: Memory::default(),
        observed: Observed::default(),
        volumes: None,
        posted: None,
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
    };
    tasks.spawn(worker.run());
    Handle { desired, changed, probes }
}

impl Worker {
    async fn run(mut self) -> String {
        let mut stale = true;
        let mut retry = None;
        let (mut config_maps, mut secrets) = self.ctx.objects.changes();
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
                changed = self.desired.changed() => if changed.is_err() { break },
                () = self.changed.notified() => stale = true,
                Some(probe) = self.probes.recv() => self.probed(probe),
                Some(done) = self.tasks.join_next_with_id() => { self.finished(done); stale = true; }
                Ok(()) = config_maps.changed() => self.refresh_volumes(&desired),
                Ok(()) = secrets.changed() => self.refresh_volumes(&desired),
                Ok(()) = settings.changed() => {}
                () = tokio::time::sleep(sleep.unwrap_or(Duration::from_secs(3600))) => {
                    self.renew_tokens(&desired);
                }
            }
        }
        self.ctx.objects.hold(&self.uid, &[], &[]);
        self.parts.probes.forget_pod(&self.uid);
        self.parts.images.forget(&self.uid);
        self.ctx.pods.remove(&self.uid);
        let _ = std::fs::remove_file(memory_of(&self.uid));
        self.uid
    }

    fn hold_objects(&self, desired: &Desired) {
        let refs = crate::volumes::object_refs(&desired.pod);
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_else(|| "default".into());
        let keys = |names: std::collections::BTreeSet<String>| -> Vec<(String, String)> {
            names.into_iter().map(|name| (namespace.clone(), name)).collect()
        };
        self.ctx.objects.hold(&self.uid, &keys(refs.config_maps), &keys(refs.secrets));
    }

    /// Decides and begins what was decided.
    fn step(&mut self, desired: &Desired) -> Decision {
        self.end_if_told(desired);
        let intent = self.intent(desired);
        self.shorten_grace(&intent);
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

    fn end_if_told(&mut self, desired: &Desired) {
        if self.ended.is_some() {
            return;
        }
        self.ended.clone_from(&desired.ended);
        let started = self.status.start_time.as_ref().map(|t| t.0.as_second());
        let deadline = spec::spec(&desired.pod).active_deadline_seconds;
        if let (Some(started), Some(deadline)) = (started, deadline)
            && now() / SECOND >= started + deadline
        {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.ctx.events.pod(&desired.pod, Severity::Normal, "DeadlineExceeded", message.clone());
            let grace = spec::spec(&desired.pod).termination_grace_period_seconds.unwrap_or(30);
            self.ended = Some(Ended { reason: "DeadlineExceeded".into(), message, grace });
        }
    }

    fn intent(&self, desired: &Desired) -> Intent {
        let own = spec::spec(&desired.pod).termination_grace_period_seconds.unwrap_or(30);
        let m = &desired.pod.metadata;
        if m.deletion_timestamp.is_some() {
            return Intent::Stop { grace: m.deletion_grace_period_seconds.unwrap_or(own) };
        }
        if let Some(ended) = &self.ended {
            return Intent::Stop { grace: ended.grace };
        }
        if desired.removed {
            return Intent::Stop { grace: own };
        }
        // A pod that the API server has as ended is not started again, whatever the runtime has forgotten.
        let terminal = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if terminal && desired.source == Source::Api { Intent::Stop { grace: own } } else { Intent::Run }
    }

    /// A shorter grace period takes effect at once; what was being started is given up.
    fn shorten_grace(&mut self, intent: &Intent) {
        let Intent::Stop { grace } = intent else {
            self.last_grace = None;
            return;
        };
        let shorter = self.last_grace.is_some_and(|last| *grace < last);
        let first = self.last_grace.is_none();
        self.last_grace = Some(*grace);
        for (operation, handle) in self.running.values() {
            let give_up = match operation {
                Operation::Start(_) | Operation::Sandbox => first,
                Operation::Stop(_) => shorter,
                _ => false,
            };
            if give_up {
                handle.abort();
                self.memory.in_flight.remove(operation);
            }
        }
    }

    fn scene(&self, desired: &Desired) -> Scene {
        let host_ips: Vec<String> = self.ctx.now().node_ips().iter().map(ToString::to_string).collect();
        let pod_ips = if spec::host_network(&desired.pod) {
            host_ips.clone()
        } else {
            self.observed.current().map(|s| s.ips.clone()).unwrap_or_default()
        };
        Scene {
            ctx: self.ctx.clone(),
            parts: self.parts.clone(),
            pod: desired.pod.clone(),
            pod_ips,
            host_ips,
        }
    }

    fn spawn(&mut self, operation: Operation, task: impl Future<Output = Done> + Send + 'static) {
        self.memory.in_flight.insert(operation.clone());
        let handle = self.tasks.spawn(task);
        self.running.insert(handle.id(), (operation, handle));
    }

    fn begin(&mut self, desired: &Desired, action: &Action) {
        let scene = self.scene(desired);
        let cri = self.ctx.cri.clone();
        match action.clone() {
            Action::CreateSandbox { attempt } => {
                self.spawn(
                    Operation::Sandbox,
                    async move { Done::Sandbox(scene.create_sandbox(attempt).await) },
                );
            }
            Action::Start { name, attempt } => self.begin_start(scene, name, attempt),
            Action::Stop { id, name, grace, message, reason } => {
                let probe_grace = reason.and_then(|_| self.probe_grace(desired, &name, reason));
                let own = spec::spec(&desired.pod).termination_grace_period_seconds.unwrap_or(30);
                let grace = grace.or(probe_grace).unwrap_or(own);
                self.spawn(Operation::Stop(id.clone()), async move {
                    Done::Stopped(scene.stop(&name, &id, grace, &message).await)
                });
            }
            Action::StopSandbox { id } => {
                self.spawn(Operation::Stop(id.clone()), async move {
                    let result = cri.stop_pod_sandbox(&id).await;
                    Done::Stopped(result.map_err(|e| Failure {
                        reason: "KillPodSandboxError".into(),
                        message: e.message,
                        retry_at: 0,
                    }))
                });
            }
            Action::RemoveContainer { id } => {
                self.spawn(Operation::Remove(id.clone()), async move {
                    if let Err(error) = cri.remove_container(&id).await {
                        tracing::debug!("remove container {id}: {error}");
                    }
                    Done::Removed
                });
            }
            Action::RemoveSandbox { id } => {
                self.spawn(Operation::Remove(id.clone()), async move {
                    if let Err(error) = cri.remove_pod_sandbox(&id).await {
                        tracing::debug!("remove sandbox {id}: {error}");
                    }
                    Done::Removed
                });
            }
            Action::Release => {
                self.spawn(Operation::Release, async move { Done::Released(scene.release().await) });
            }
        }
    }

    fn begin_start(&mut self, scene: Scene, name: String, attempt: u32) {
        let Some(sandbox) = self.observed.current().cloned() else { return };
        if let Some(last) = self.observed.container(&name).filter(|c| c.state == State::Exited) {
            let finished_at = last.finished_at;
            self.memory.backoff.entry(name.clone()).or_default().next(finished_at, now());
        }
        let volumes = self.volumes.clone();
        let target = spec::ephemeral_containers(&scene.pod)
            .iter()
            .find(|c| c.name == name)
            .and_then(|c| c.target_container_name.as_deref())
            .and_then(|target| self.observed.container(target))
            .map(|c| c.id.clone());
        self.spawn(Operation::Start(name.clone()), async move {
            let result = scene.start(&name, attempt, &sandbox, volumes.as_ref(), target).await;
            Done::Started(name, attempt, result)
        });
    }

    fn probe_grace(&self, desired: &Desired, name: &str, reason: Option<&str>) -> Option<i64> {
        let (_, container) = spec::find(&desired.pod, name)?;
        let probe =
            if reason == Some("StartupProbe") { container.startup_probe } else { container.liveness_probe };
        probe?.termination_grace_period_seconds
    }

    fn say_back_off(&mut self, desired: &Desired, name: &str, until: Nanos) {
        let kind = spec::find(&desired.pod, name).map_or(Kind::App, |(kind, _)| kind);
        let m = &desired.pod.metadata;
        let message = format!(
            "Back-off restarting failed container {name} in pod {}_{}({})",
            m.name.as_deref().unwrap_or_default(),
            m.namespace.as_deref().unwrap_or_default(),
            self.uid
        );
        self.ctx.events.container(
            &desired.pod,
            spec::field_path(kind, name),
            Severity::Warning,
            "BackOff",
            message,
        );
        let failure = Failure { reason: "CrashLoopBackOff".into(), message: String::new(), retry_at: until };
        self.memory.failures.insert(name.to_owned(), failure);
    }

    fn finished(&mut self, done: Result<(Id, Done), tokio::task::JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, Some(done)),
            Err(error) => (error.id(), None),
        };
        if let Some((operation, _)) = self.running.remove(&id) {
            // A second operation of the same name may have begun after this one was given up.
            if !self.running.values().any(|(other, _)| *other == operation) {
                self.memory.in_flight.remove(&operation);
            }
        }
        match done {
            None | Some(Done::Removed | Done::Refreshed(None)) => {}
            Some(Done::Refreshed(Some(volumes))) => self.volumes = Some(volumes),
            Some(Done::Sandbox(Ok(volumes))) => {
                self.memory.sandbox_failure = None;
                self.memory.released = false;
                self.volumes = Some(volumes);
            }
            Some(Done::Sandbox(Err(failure))) => self.memory.sandbox_failure = Some(failure),
            Some(Done::Started(name, attempt, result)) => {
                match result {
                    Ok(_) => self.memory.failures.remove(&name),
                    Err(failure) => self.memory.failures.insert(name.clone(), failure),
                };
                if self.observed.container(&name).is_some() && self.memory.restarts.contains_key(&name) {
                    self.memory.restarts.insert(name, attempt);
                }
            }
            Some(Done::Stopped(Err(failure))) => tracing::warn!("pod {}: {}", self.uid, failure.message),
            Some(Done::Stopped(Ok(()))) => {}
            Some(Done::Released(result)) => match result {
                Ok(()) => {
                    self.memory.released = true;
                    self.volumes = None;
                }
                Err(failure) => tracing::warn!("pod {}: {}", self.uid, failure.message),
            },
            Some(Done::Posted(status, result)) => self.was_posted(status, result),
            Some(Done::Deleted(result)) => {
                self.deleting = false;
                if let Err(error) = result {
                    self.delete_after = now() + 2 * SECOND;
                    tracing::debug!("delete pod {}: {error}", self.uid);
                } else {
                    self.delete_after = now() + 10 * SECOND;
                }
            }
        }
    }

    fn was_posted(&mut self, status: PodStatus, result: Result<(), kube::Error>) {
        self.posting = false;
        match result {
            Ok(()) => self.posted = Some(status),
            // The pod, or this incarnation of it, is gone: there is nobody to tell.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                self.posted = Some(status);
            }
            Err(error) => {
                self.post_after = now() + 2 * SECOND;
                tracing::debug!("status of pod {}: {}", self.uid, crate::parts::chain(&error));
            }
        }
    }

    fn probed(&mut self, probe: probe::Changed) {
        let entry = self.memory.probes.entry(probe.container_id).or_default();
        match probe.kind {
            probe::Kind::Startup => entry.startup = Some(probe.healthy),
            probe::Kind::Liveness => entry.liveness = Some(probe.healthy),
            probe::Kind::Readiness => entry.readiness = Some(probe.healthy),
        }
    }

    fn watch_probes(&mut self, desired: &Desired) {
        let pod_ip = self.scene(desired).pod_ips.first().cloned().unwrap_or_default();
        let mut running = BTreeMap::new();
        let stopping = self.last_grace.is_some();
        for container in self.observed.containers.iter().filter(|c| c.state == State::Running && !stopping) {
            let Some((kind, spec)) = spec::find(&desired.pod, &container.name) else { continue };
            let has = spec.startup_probe.is_some()
                || spec.liveness_probe.is_some()
                || spec.readiness_probe.is_some();
            if !has || matches!(kind, Kind::Init | Kind::Ephemeral) {
                continue;
            }
            running.insert(container.id.clone(), ());
            if self.watched.contains_key(&container.id) {
                continue;
            }
            let id = format!("{}://{}", status::RUNTIME_NAME, container.id);
            let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
            let known = statuses.flatten().find(|s| s.container_id.as_deref() == Some(&id));
            let initial = known.map_or_else(probe::Initial::default, |s| probe::Initial {
                started: s.started.unwrap_or_default(),
                ready: s.ready,
            });
            let target = probe::Target {
                pod: desired.pod.clone(),
                container: container.name.clone(),
                container_id: container.id.clone(),
                started_at: jiff::Timestamp::from_nanosecond(container.started_at.into()).unwrap_or_default(),
                pod_ip: pod_ip.clone(),
            };
            self.parts.probes.watch(target, initial);
        }
        for gone in self.watched.keys().filter(|id| !running.contains_key(*id)) {
            self.parts.probes.forget(gone);
        }
        self.watched = running;
        let known: Vec<&str> = self.observed.containers.iter().map(|c| c.id.as_str()).collect();
        self.memory.probes.retain(|id, _| known.contains(&id.as_str()));
    }

    /// Computes the status, shows it, and tells the API server of it. Answers when to come again.
    fn tell(&mut self, desired: &Desired, decision: &Decision) -> Option<Nanos> {
        let host_ips: Vec<String> = self.ctx.now().node_ips().iter().map(ToString::to_string).collect();
        self.take_over_conditions(desired);
        let facts = Facts {
            observed: &self.observed,
            memory: &self.memory,
            decision,
            previous: &self.status,
            host_ips: &host_ips,
            qos_class: crate::cgroup::qos_class(&desired.pod).as_str(),
            ended: self.ended.as_ref().map(|e| (e.reason.as_str(), e.message.as_str())),
            now: now(),
        };
        self.status = status::compute(&desired.pod, &facts);
        let mut pod = (*desired.pod).clone();
        pod.status = Some(self.status.clone());
        let mut containers = BTreeMap::new();
        for container in &self.observed.containers {
            containers.entry(container.name.clone()).or_insert_with(|| container.id.clone());
        }
        let sandbox = self.observed.sandboxes.first().map(|s| s.id.clone());
        self.ctx.pods.put(PodEntry { pod: Arc::new(pod), source: desired.source, sandbox, containers });
        let deadline = self.deadline(desired);
        self.remember_static(desired);
        let renew = self.volumes.as_ref().and_then(|v| v.renew_at);
        let renew =
            renew.map(|at| Nanos::try_from(at.as_nanosecond()).unwrap_or(Nanos::MAX).max(now() + SECOND));
        [self.post(desired), self.delete(desired, decision), deadline, renew].into_iter().flatten().min()
    }

    /// A static pod's status outlives this agent in /run, since the API server may not be there to ask.
    fn remember_static(&mut self, desired: &Desired) {
        if desired.source != Source::File || self.remembered.as_ref() == Some(&self.status) {
            return;
        }
        self.remembered = Some(self.status.clone());
        let path = memory_of(&self.uid);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(MEMORY)?;
            let next = path.with_extension("next");
            std::fs::write(&next, serde_json::to_vec(&self.status)?)?;
            std::fs::rename(&next, &path)
        };
        if let Err(error) = write() {
            tracing::debug!("write {}: {error}", path.display());
        }
    }

    fn deadline(&self, desired: &Desired) -> Option<Nanos> {
        let deadline = spec::spec(&desired.pod).active_deadline_seconds?;
        let started = self.status.start_time.as_ref()?.0.as_second();
        let at = (started + deadline) * SECOND;
        (at > now()).then_some(at)
    }

    /// Conditions that others write come from the API server.
    fn take_over_conditions(&mut self, desired: &Desired) {
        let Some(api) = desired.api.as_ref().and_then(|p| p.status.as_ref()) else { return };
        let others = api.conditions.iter().flatten().filter(|c| !status::owns_condition(&c.type_)).cloned();
        let mut conditions: Vec<_> = self
            .status
            .conditions
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|c| status::owns_condition(&c.type_))
            .collect();
        conditions.extend(others);
        self.status.conditions = Some(conditions);
    }

    fn post(&mut self, desired: &Desired) -> Option<Nanos> {
        let api_pod = desired.api.clone()?;
        let client = self.ctx.api.client()?;
        if self.posting {
            return None;
        }
        // A mirror pod that was made anew knows nothing yet.
        if self.posted_to != api_pod.metadata.uid {
            self.posted_to.clone_from(&api_pod.metadata.uid);
            self.posted = None;
        }
        let base = self.posted.clone().or_else(|| api_pod.status.clone()).unwrap_or_default();
        let uid = api_pod.metadata.uid.as_deref().unwrap_or_default();
        let patch = status_patch(uid, &base, &self.status)?;
        if self.post_after > now() {
            return Some(self.post_after);
        }
        self.posting = true;
        let namespace = api_pod.metadata.namespace.clone().unwrap_or_default();
        let name = api_pod.metadata.name.clone().unwrap_or_default();
        let status = self.status.clone();
        self.tasks.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let patched = pods.patch_status(&name, &params, &patch);
            let result = within(patched).await.map(drop);
            Done::Posted(status, result)
        });
        None
    }

    /// A deleted pod leaves the API server when nothing of it runs and its last status is told.
    fn delete(&mut self, desired: &Desired, decision: &Decision) -> Option<Nanos> {
        let deleted = desired.pod.metadata.deletion_timestamp.is_some();
        let told = !self.posting && self.posted.as_ref().is_none_or(|posted| *posted == self.status);
        if desired.source != Source::Api
            || !deleted
            || !decision.gone
            || self.deleting
            || !told
            || desired.removed
        {
            return None;
        }
        if self.delete_after > now() {
            return Some(self.delete_after);
        }
        let client = self.ctx.api.client()?;
        self.deleting = true;
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_default();
        let name = desired.pod.metadata.name.clone().unwrap_or_default();
        let uid = self.uid.clone();
        self.tasks.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..Default::default()
            };
            let result = match within(pods.delete(&name, &params)).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
                other => other.map(drop),
            };
            Done::Deleted(result)
        });
        None
    }

    fn is_over(&self, desired: &Desired, decision: &Decision) -> bool {
        desired.removed && decision.gone && self.tasks.is_empty() && self.nothing_left()
    }

    /// The pod's remains in the runtime go with its task.
    fn nothing_left(&self) -> bool {
        let cri = self.ctx.cri.clone();
        let sandboxes: Vec<String> = self.observed.sandboxes.iter().map(|s| s.id.clone()).collect();
        let containers: Vec<String> = self.observed.containers.iter().map(|c| c.id.clone()).collect();
        let logs = super::convert::log_directory(&self.desired.borrow().pod);
        tokio::spawn(async move {
            for id in containers {
                if let Err(error) = cri.remove_container(&id).await {
                    tracing::debug!("remove container {id}: {error}");
                }
            }
            for id in sandboxes {
                if let Err(error) = cri.remove_pod_sandbox(&id).await {
                    tracing::debug!("remove sandbox {id}: {error}");
                }
            }
            if let Err(error) = tokio::fs::remove_dir_all(&logs).await {
                tracing::debug!("remove {logs}: {error}");
            }
        });
        true
    }

    fn refresh_volumes(&mut self, desired: &Desired) {
        if self.volumes.is_none() && self.observed.current().is_none() {
            return;
        }
        let scene = self.scene(desired);
        self.tasks.spawn(async move { Done::Refreshed(scene.prepare_volumes().await.ok()) });
    }

    fn renew_tokens(&mut self, desired: &Desired) {
        let due =
            self.volumes.as_ref().and_then(|v| v.renew_at).is_some_and(|at| at <= jiff::Timestamp::now());
        if due {
            self.refresh_volumes(desired);
        }
    }
}

/// Bounds a request to the API server.
async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match tokio::time::timeout(Duration::from_secs(20), request).await {
        Ok(result) => result,
        Err(_) => Err(kube::Error::Service("no answer from the API server within 20 s".into())),
    }
}
