//! One task per pod: which there are, which begin and which end.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use node_kit::tasks::essential;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::admission::{self, Rejection};
use crate::context::Context;
use crate::dead_logs;
use crate::parts::Parts;
use crate::pod::observed::LABEL_POD_UID;
use crate::pod::worker::{self, Desired, Ended, Handle, Pending};
use crate::pods::{Snapshot, Source};
use crate::preemption;
use crate::probe;
use crate::sources::api::ApiPods;
use crate::sources::file::StaticPods;
use crate::spec;

mod beside;
mod look;
mod resize;

use look::{Looked, look};

/// A request to end a pod: evicted, or the node shuts down. `None` lets a pod that was paused run again.
#[derive(Debug, Clone)]
pub struct EndPod {
    pub uid: String,
    pub ended: Option<Ended>,
}

/// What the manager listens to.
#[derive(Debug)]
pub struct Inputs {
    pub static_pods: watch::Receiver<StaticPods>,
    pub api_pods: watch::Receiver<ApiPods>,
    pub probes: mpsc::Receiver<probe::Changed>,
    pub ends: mpsc::Receiver<EndPod>,
    pub shutting_down: watch::Receiver<bool>,
}

struct Manager {
    ctx: Context,
    parts: Parts,
    handles: HashMap<String, Handle>,
    tasks: JoinSet<String>,
    ended: HashMap<String, Ended>,
    seen: HashMap<String, u64>,
    shutting_down: watch::Receiver<bool>,
    /// Resizes that are not granted, by pod.
    pending: HashMap<String, Pending>,
    /// Pods without a task that the API server knew as begun at the last look.
    begun: BTreeMap<String, Arc<Pod>>,
    pods: watch::Receiver<Snapshot>,
    /// Another look at all pods is due: one was ended for another.
    again: Arc<Notify>,
}

/// How long between looks at everything, in case the runtime's events missed something.
const RELIST: Duration = Duration::from_secs(60);

/// Runs all pods for as long as the agent lives. `first_pass` is told once every static pod has its task.
pub async fn run(ctx: Context, parts: Parts, mut inputs: Inputs, first_pass: watch::Sender<bool>) {
    let mut manager = Manager {
        ctx: ctx.clone(),
        parts,
        handles: HashMap::new(),
        tasks: JoinSet::new(),
        ended: HashMap::new(),
        seen: HashMap::new(),
        shutting_down: inputs.shutting_down.clone(),
        pending: HashMap::new(),
        begun: BTreeMap::new(),
        pods: ctx.pods.watch(),
        again: Arc::default(),
    };
    let again = manager.again.clone();
    let (events_tx, mut events) = mpsc::channel::<Option<String>>(256);
    essential("runtime events", follow_runtime(ctx, events_tx));
    let mut relist = tokio::time::interval(RELIST);
    let mut looks = JoinSet::new();
    relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let statics = inputs.static_pods.borrow_and_update().clone();
        let api = inputs.api_pods.borrow_and_update().clone();
        manager.sync(&statics, api.as_deref());
        first_pass.send_replace(true);
        tokio::select! {
            changed = inputs.static_pods.changed() => if changed.is_err() { return },
            changed = inputs.api_pods.changed() => if changed.is_err() { return },
            Some(changed) = inputs.probes.recv() => manager.probed(changed),
            Some(end) = inputs.ends.recv() => manager.end(end),
            () = again.notified() => {}
            // Pods that were held back may start when a shutdown is called off.
            Ok(()) = inputs.shutting_down.changed() => {}
            Some(event) = events.recv() => match event {
                Some(uid) => manager.poke(&uid),
                None => manager.handles.values().for_each(|h| h.changed.notify_one()),
            },
            Some(over) = manager.tasks.join_next() => manager.over(over),
            Ok(()) = manager.pods.changed() => manager.weigh_tiers(),
            // One look at a time: a runtime that does not answer holds up nothing here.
            _ = relist.tick(), if looks.is_empty() => {
                looks.spawn(look(manager.ctx.clone(), manager.parts.clone()));
            }
            Some(looked) = looks.join_next() => {
                if let Ok(Some(looked)) = looked {
                    manager.relist(looked, api.as_deref());
                }
            }
        }
    }
}

impl Manager {
    fn sync(&mut self, statics: &BTreeMap<String, Arc<Pod>>, api: Option<&BTreeMap<String, Arc<Pod>>>) {
        let mirror_of = |pod: &Pod| {
            api?.values()
                .find(|m| {
                    spec::is_mirror(m)
                        && m.metadata.name == pod.metadata.name
                        && m.metadata.namespace == pod.metadata.namespace
                })
                .cloned()
        };
        for (uid, pod) in statics {
            let api = mirror_of(pod);
            self.want(uid, pod, Source::File, api);
        }
        let pods = api.into_iter().flatten().filter(|(_, pod)| !spec::is_mirror(pod));
        let (known, mut new): (Vec<_>, Vec<_>) = pods.partition(|(uid, _)| self.handles.contains_key(*uid));
        self.begun = beside::begun(new.iter().copied());
        self.grant_resizes(api);
        // What runs has its place before anything new is admitted, and of the new the older comes first.
        new.sort_by_key(|(uid, pod)| {
            (!self.begun.contains_key(*uid), pod.metadata.creation_timestamp.clone())
        });
        for (uid, pod) in known.into_iter().chain(new) {
            let granted = self.parts.allocations.get(uid).map_or_else(|| pod.clone(), |a| a.apply(pod));
            self.want(uid, &granted, Source::Api, Some(pod.clone()));
        }
        for (uid, handle) in &self.handles {
            let there = match handle.desired.borrow().source {
                Source::File => statics.contains_key(uid),
                Source::Api => api.is_none_or(|api| api.contains_key(uid)),
            };
            if !there {
                handle.desired.send_if_modified(|d| !std::mem::replace(&mut d.removed, true));
            }
        }
    }

    /// As [`beside::beside`].
    fn beside(&self) -> BTreeMap<String, Arc<Pod>> {
        let wanted =
            self.handles.iter().map(|(uid, handle)| (uid.clone(), handle.desired.borrow().pod.clone()));
        let seen = self.ctx.pods.snapshot();
        let seen = seen.iter().map(|(uid, entry)| (uid.clone(), entry.pod.clone()));
        let allocations = &self.parts.allocations;
        beside::beside(
            self.begun.clone(),
            wanted.chain(seen),
            |uid| self.ended.contains_key(uid),
            |uid| allocations.get(uid),
        )
    }

    fn want(&mut self, uid: &str, pod: &Arc<Pod>, source: Source, api: Option<Arc<Pod>>) {
        let ended = self.ended.get(uid).cloned();
        let pending = self.pending.get(uid).cloned();
        if let Some(handle) = self.handles.get(uid) {
            handle.desired.send_if_modified(|d| {
                let same = |a: &Option<Arc<Pod>>, b: &Option<Arc<Pod>>| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                };
                let changed = !(Arc::ptr_eq(&d.pod, pod) || d.pod == *pod)
                    || !same(&d.api, &api)
                    || d.ended != ended
                    || d.pending != pending
                    || d.removed;
                *d = Desired {
                    pod: pod.clone(),
                    source,
                    ended: ended.clone(),
                    pending: pending.clone(),
                    removed: false,
                    api: api.clone(),
                };
                changed
            });
            return;
        }
        // A static pod of this name that is still ending comes first.
        let name = (&pod.metadata.namespace, &pod.metadata.name);
        let still_there = self.handles.values().any(|h| {
            let d = h.desired.borrow();
            (&d.pod.metadata.namespace, &d.pod.metadata.name) == name
        });
        if still_there {
            return;
        }
        // A static pod is not refused for good: it starts with the next boot.
        if source == Source::File && *self.shutting_down.borrow() {
            return;
        }
        let ended = ended.or_else(|| self.admit(pod, source));
        if ended.is_none() && source == Source::Api && self.parts.allocations.get(uid).is_none() {
            self.parts.allocations.update(uid, |allocation| allocation.grant(pod));
        }
        let desired =
            Desired { pod: pod.clone(), source, ended: ended.clone(), pending, removed: false, api };
        if let Some(ended) = ended {
            self.ended.insert(uid.to_owned(), ended);
        }
        let handle = worker::spawn(self.ctx.clone(), self.parts.clone(), desired, &mut self.tasks);
        self.handles.insert(uid.to_owned(), handle);
    }

    /// Pods that the API server knows as running, or ended, were admitted before: a restart of the agent refuses none of them.
    fn admit(&mut self, pod: &Arc<Pod>, source: Source) -> Option<Ended> {
        let status = pod.status.as_ref();
        let known = status.is_some_and(|s| s.start_time.is_some());
        if source == Source::File || known || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if *self.shutting_down.borrow() {
            return Some(self.refuse(pod, Rejection::node_shutdown()));
        }
        let pods = self.beside();
        let node = self.ctx.node.borrow().clone();
        let active: Vec<&Pod> = pods.values().map(|pod| &**pod).collect();
        let allocatable = self.parts.node_allocatable();
        let rejection = admission::admit(pod, &active, node.as_deref(), &allocatable)?;
        if spec::is_critical(pod) && rejection.shortage {
            let missing = admission::shortages(pod, &active, &allocatable);
            if let Some(victims) = preemption::victims(pod, &active, &missing) {
                let victims: Vec<Pod> = victims.into_iter().cloned().collect();
                victims.iter().for_each(|victim| self.preempt(victim));
                return None;
            }
        }
        Some(self.refuse(pod, rejection))
    }

    fn preempt(&mut self, victim: &Pod) {
        let message = preemption::MESSAGE;
        self.ctx.events.pod(victim, crate::events::Kind::Warning, "Preempting", message);
        let grace = spec::spec(victim).termination_grace_period_seconds.unwrap_or(30);
        let how = worker::How::Disrupted;
        let ended = Ended { reason: "Preempting".into(), message: message.into(), grace, how };
        self.ended.insert(victim.metadata.uid.clone().unwrap_or_default(), ended);
        self.again.notify_one();
    }

    fn refuse(&self, pod: &Pod, rejection: Rejection) -> Ended {
        self.ctx.events.pod(pod, crate::events::Kind::Warning, rejection.reason, rejection.message.clone());
        let reason = rejection.reason.to_owned();
        Ended { reason, message: rejection.message, grace: 0, how: worker::How::Failed }
    }

    fn end(&mut self, end: EndPod) {
        match end.ended {
            Some(ended) => {
                self.ended.insert(end.uid, ended);
            }
            None => {
                if self.ended.get(&end.uid).is_some_and(|ended| ended.how == worker::How::Paused) {
                    self.ended.remove(&end.uid);
                }
            }
        }
    }

    /// The burstable pods together weigh as much as they have requested.
    fn weigh_tiers(&mut self) {
        let pods = self.pods.borrow_and_update().clone();
        let active = pods.values().map(|entry| &*entry.pod).filter(|pod| admission::is_active(pod));
        if let Err(error) = self.parts.cgroups.refresh_tiers(active) {
            tracing::debug!("{}", crate::errors::chain(&error));
        }
    }

    fn probed(&mut self, changed: probe::Changed) {
        if let Some(handle) = self.handles.get(&changed.pod_uid) {
            handle.probes.put(changed);
        }
    }

    fn poke(&self, uid: &str) {
        if let Some(handle) = self.handles.get(uid) {
            handle.changed.notify_one();
        }
    }

    fn over(&mut self, over: Result<String, tokio::task::JoinError>) {
        match over {
            Ok(uid) => {
                self.handles.remove(&uid);
                self.ended.remove(&uid);
                self.pending.remove(&uid);
            }
            Err(error) => {
                // A task that panicked is begun anew by the next look at the sources.
                tracing::error!("a pod's task failed: {error}");
                self.handles.retain(|_, handle| !handle.desired.is_closed());
            }
        }
    }

    /// Wakes the tasks of pods whose containers are not what they were at the last look, and ends what belongs to no pod.
    fn relist(&mut self, looked: Looked, api: Option<&BTreeMap<String, Arc<Pod>>>) {
        let Looked { sandboxes, containers, folders, log_folders } = looked;
        let mut now: HashMap<String, DefaultHasher> = HashMap::new();
        let uid_of =
            |labels: &HashMap<String, String>| labels.get(LABEL_POD_UID).cloned().unwrap_or_default();
        for sandbox in &sandboxes {
            (&sandbox.id, sandbox.state).hash(now.entry(uid_of(&sandbox.labels)).or_default());
        }
        for container in &containers {
            (&container.id, container.state).hash(now.entry(uid_of(&container.labels)).or_default());
        }
        let now: HashMap<String, u64> = now.into_iter().map(|(uid, hash)| (uid, hash.finish())).collect();
        for (uid, hash) in &now {
            if self.seen.get(uid) != Some(hash) {
                self.poke(uid);
            }
        }
        self.seen = now;
        // Whether a pod is an orphan is known only when both sources have spoken.
        if api.is_some() {
            let is_there = |uid: &str| self.handles.contains_key(uid);
            self.parts.allocations.keep_only(is_there);
            // Only what was there when the runtime was asked: a pod that began since has made its own.
            let dead = log_folders.into_iter().filter(|(uid, _)| !is_there(uid)).map(|(_, folder)| folder);
            let dead: Vec<_> = dead.collect();
            tokio::task::spawn_blocking(move || {
                dead_logs::remove(&dead, machine::paths::CONTAINER_LOGS.as_ref());
            });
            let orphans: HashSet<String> = self
                .seen
                .keys()
                .filter(|uid| !uid.is_empty() && !self.handles.contains_key(*uid))
                .cloned()
                .collect();
            for sandbox in sandboxes.into_iter().filter(|s| orphans.contains(&uid_of(&s.labels))) {
                let (ctx, parts, uid) = (self.ctx.clone(), self.parts.clone(), uid_of(&sandbox.labels));
                tokio::spawn(end_orphan(ctx, parts, uid, sandbox.id));
            }
            for uid in folders {
                if !self.handles.contains_key(&uid) && !self.seen.contains_key(&uid) {
                    let parts = self.parts.clone();
                    tokio::spawn(async move { release(&parts, &uid).await });
                }
            }
        }
    }
}

async fn release(parts: &Parts, uid: &str) {
    if let Err(error) = parts.volumes.teardown(uid).await {
        tracing::warn!("{error}");
    } else if let Err(error) = parts.cgroups.remove_pod(uid).await {
        tracing::warn!("cgroup of pod {uid}: {}", crate::errors::chain(&error));
    }
}

/// Ends what is left of a pod that no source has.
async fn end_orphan(ctx: Context, parts: Parts, uid: String, sandbox: String) {
    tracing::info!("pod {uid} is no longer wanted; its sandbox {sandbox} ends");
    let filter = machine::cri::ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    for container in ctx.cri.list_containers(Some(filter)).await.unwrap_or_default() {
        if let Err(error) = ctx.cri.stop_container(&container.id, 30).await {
            tracing::debug!("{error}");
        }
    }
    let ended = async {
        ctx.cri.stop_pod_sandbox(&sandbox).await?;
        ctx.cri.remove_pod_sandbox(&sandbox).await
    };
    match ended.await {
        Ok(()) => release(&parts, &uid).await,
        Err(error) => tracing::warn!("orphaned pod {uid}: {error}"),
    }
}

/// Passes on the runtime's events as pod uids; `None` says that events may have been missed.
async fn follow_runtime(ctx: Context, tx: mpsc::Sender<Option<String>>) {
    let mut told = false;
    while !tx.is_closed() {
        match ctx.cri.events().await {
            Ok(mut stream) => {
                told = false;
                if tx.send(None).await.is_err() {
                    return;
                }
                while let Ok(Some(event)) = stream.message().await {
                    let status = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
                    let uid = status.or_else(|| {
                        event.containers_statuses.first().and_then(|c| c.labels.get(LABEL_POD_UID).cloned())
                    });
                    if tx.send(uid).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) if !told => {
                tracing::warn!("the runtime's events: {error}; trying again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
