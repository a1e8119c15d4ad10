use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use node_kit::tasks::sound;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::names::{Names, PodAddress};
use super::once::{Exec, run, seconds};
use super::outcome::Outcome;
use super::tracker::{Kind, Thresholds, Tracker};

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Target {
    pub pod: Arc<Pod>,
    /// Its name in the spec, init containers (sidecars) included.
    pub container: String,
    /// CRI id.
    pub container_id: String,
    pub started_at: Timestamp,
    pub pod_ip: String,
}

/// What is known of the container already, for one that was running before this agent did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Initial {
    pub started: bool,
    pub ready: bool,
}

/// What probes say of a container now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe holds, or there is none and the container has started.
    pub ready: bool,
}

/// A probe's state changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub pod_uid: String,
    pub container: String,
    pub container_id: String,
    pub kind: Kind,
    /// False for liveness and startup: the container is to be killed, and is not probed any more.
    pub healthy: bool,
    pub message: String,
    /// The probe's own grace period for killing, in seconds, if it has one.
    pub grace_seconds: Option<i64>,
}

/// How often the probes of one container ended how, since this agent began to watch it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeCount {
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub container: String,
    /// By kind: successful, failed, unknown.
    pub results: BTreeMap<Kind, [u64; 3]>,
}

/// Tells of single failed or warning results: the pod, the container's name, the event's reason and its text.
pub type Report = Arc<dyn Fn(&Pod, &str, &'static str, String) + Send + Sync>;

/// Runs the probes of all containers; clones share them. What it holds is bounded by the containers that run.
#[derive(Clone)]
pub struct Manager {
    exec: Arc<dyn Exec>,
    changes: mpsc::Sender<Changed>,
    report: Report,
    names: Names,
    running: Arc<Mutex<HashMap<String, Running>>>,
}

struct Running {
    pod_uid: String,
    health: Health,
    about: ProbeCount,
    task: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.running.lock().map(|running| running.len()).unwrap_or_default();
        write!(f, "Manager {{ containers: {count} }}")
    }
}

impl Manager {
    /// `changes` should hold as many as containers may run; a full channel makes probes wait.
    #[must_use]
    pub fn new(exec: Arc<dyn Exec>, changes: mpsc::Sender<Changed>, report: Report) -> Self {
        Self { exec, changes, report, names: Names::default(), running: Arc::default() }
    }

    /// How probes find hosts, which lifecycle hooks share.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Begins to probe a container; no effect if it is known by its id already. A container without probes is started at once, and ready.
    pub fn watch(&self, target: Target, initial: Initial) {
        let Some(probes) = Probes::of(&target) else { return };
        let Ok(mut running) = self.running.lock() else { return };
        if running.contains_key(&target.container_id) {
            return;
        }
        let started = probes.startup.is_none() || initial.started || initial.ready;
        let health = Health { started, ready: started && (probes.readiness.is_none() || initial.ready) };
        let id = target.container_id.clone();
        let pod_uid = target.pod.metadata.uid.clone().unwrap_or_default();
        let metadata = &target.pod.metadata;
        let about = ProbeCount {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            pod: metadata.name.clone().unwrap_or_default(),
            pod_uid: pod_uid.clone(),
            container: target.container.clone(),
            results: BTreeMap::new(),
        };
        let worker =
            Worker { manager: self.clone(), target: Arc::new(target), probes: Arc::new(probes), health };
        let task =
            worker.probes.any().then(|| sound("probes", worker.clone().all(initial != Initial::default())));
        running.insert(id, Running { pod_uid, health, about, task });
    }

    /// Ends the probes of a container and forgets it.
    pub fn forget(&self, container_id: &str) {
        if let Ok(mut running) = self.running.lock() {
            running.remove(container_id);
        }
    }

    /// Ends the probes of all containers of a pod.
    pub fn forget_pod(&self, pod_uid: &str) {
        if let Ok(mut running) = self.running.lock() {
            running.retain(|_, entry| entry.pod_uid != pod_uid);
        }
    }

    /// What is known of a container; `None` if it is not watched.
    #[must_use]
    pub fn health(&self, container_id: &str) -> Option<Health> {
        self.running.lock().ok()?.get(container_id).map(|entry| entry.health)
    }

    /// Results so far, of all containers that are watched.
    #[must_use]
    pub fn counts(&self) -> Vec<ProbeCount> {
        let Ok(running) = self.running.lock() else { return Vec::new() };
        running.values().map(|entry| entry.about.clone()).filter(|count| !count.results.is_empty()).collect()
    }

    fn count(&self, container_id: &str, kind: Kind, outcome: &Outcome) {
        let at = match outcome {
            Outcome::Success | Outcome::Warning(_) => 0,
            Outcome::Failure(_) => 1,
            Outcome::Error(_) => 2,
        };
        if let Ok(mut running) = self.running.lock()
            && let Some(entry) = running.get_mut(container_id)
        {
            entry.about.results.entry(kind).or_default()[at] += 1;
        }
    }

    fn update(&self, container_id: &str, change: impl FnOnce(&mut Health)) {
        if let Ok(mut running) = self.running.lock()
            && let Some(entry) = running.get_mut(container_id)
        {
            change(&mut entry.health);
        }
    }
}

#[derive(Debug)]
struct Probes {
    container: Container,
    startup: Option<Probe>,
    liveness: Option<Probe>,
    readiness: Option<Probe>,
}

impl Probes {
    fn of(target: &Target) -> Option<Self> {
        let spec = target.pod.spec.as_ref()?;
        let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let container = containers.find(|container| container.name == target.container)?.clone();
        Some(Self {
            startup: container.startup_probe.clone(),
            liveness: container.liveness_probe.clone(),
            readiness: container.readiness_probe.clone(),
            container,
        })
    }

    fn any(&self) -> bool {
        self.startup.is_some() || self.liveness.is_some() || self.readiness.is_some()
    }
}

#[derive(Clone)]
struct Worker {
    manager: Manager,
    target: Arc<Target>,
    probes: Arc<Probes>,
    health: Health,
}

impl Worker {
    async fn all(self, resumed: bool) {
        if let Some(probe) = self.probes.startup.as_ref().filter(|_| !self.health.started) {
            if !self
                .until_changed(Kind::Startup, probe, Tracker::new(Thresholds::of(probe), None), resumed)
                .await
            {
                return;
            }
            let no_readiness = self.probes.readiness.is_none();
            self.manager.update(&self.target.container_id, |health| {
                health.started = true;
                health.ready |= no_readiness;
            });
            self.send(Kind::Startup, probe, true, String::new()).await;
        }
        let liveness = async {
            if let Some(probe) = &self.probes.liveness {
                let tracker = Tracker::new(Thresholds::of(probe), Some(true));
                self.until_changed(Kind::Liveness, probe, tracker, resumed).await;
            }
        };
        let readiness = async {
            if let Some(probe) = &self.probes.readiness {
                let tracker = Tracker::new(Thresholds::of(probe), Some(self.health.ready));
                self.until_changed(Kind::Readiness, probe, tracker, resumed).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// Probes until startup succeeds (true), or startup or liveness fails for good (false). Readiness goes on for ever.
    async fn until_changed(&self, kind: Kind, probe: &Probe, mut tracker: Tracker, resumed: bool) -> bool {
        let period = seconds(probe.period_seconds, 10);
        self.first_delay(probe, period, resumed).await;
        loop {
            let outcome = self.once(probe).await;
            self.manager.count(&self.target.container_id, kind, &outcome);
            self.tell(kind, &outcome);
            let (success, message) = match outcome {
                Outcome::Success => (Some(true), String::new()),
                Outcome::Warning(message) => (Some(true), message),
                Outcome::Failure(message) => (Some(false), message),
                Outcome::Error(message) => (None, message),
            };
            match (kind, success.and_then(|success| tracker.observe(success))) {
                (_, None) => {}
                (Kind::Startup, Some(true)) => return true,
                (Kind::Startup | Kind::Liveness, Some(false)) => {
                    self.send(kind, probe, false, message).await;
                    return false;
                }
                (Kind::Liveness, Some(true)) => {}
                (Kind::Readiness, Some(ready)) => {
                    self.manager.update(&self.target.container_id, |health| health.ready = ready);
                    self.send(kind, probe, ready, message).await;
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    /// The initial delay counts from the container's start. After a restart of the agent, probes are spread over their period, so that
    /// they do not all run at once.
    async fn first_delay(&self, probe: &Probe, period: Duration, resumed: bool) {
        let delay = probe.initial_delay_seconds.and_then(|delay| u64::try_from(delay).ok()).unwrap_or(0);
        let age = Timestamp::now().duration_since(self.target.started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        let mut wait = Duration::from_secs(delay).saturating_sub(age);
        if resumed {
            wait += period.mul_f64(fraction(&self.target.container_id));
        }
        tokio::time::sleep(wait).await;
    }

    async fn once(&self, probe: &Probe) -> Outcome {
        let target = &self.target;
        let exec = &*self.manager.exec;
        let uid = target.pod.metadata.uid.as_deref().unwrap_or_default();
        let pod = PodAddress { uid, ip: &target.pod_ip, names: &self.manager.names };
        run(probe, &self.probes.container, &target.container_id, pod, exec).await
    }

    fn tell(&self, kind: Kind, outcome: &Outcome) {
        let kind = kind.as_str();
        let (reason, text) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(message) => ("ProbeWarning", format!("{kind} probe warning: {message}")),
            Outcome::Failure(message) => ("Unhealthy", format!("{kind} probe failed: {message}")),
            Outcome::Error(message) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {message}"))
            }
        };
        (self.manager.report)(&self.target.pod, &self.target.container, reason, text);
    }

    async fn send(&self, kind: Kind, probe: &Probe, healthy: bool, message: String) {
        let changed = Changed {
            pod_uid: self.target.pod.metadata.uid.clone().unwrap_or_default(),
            container: self.target.container.clone(),
            container_id: self.target.container_id.clone(),
            kind,
            healthy,
            message,
            grace_seconds: probe.termination_grace_period_seconds,
        };
        // Whoever stopped listening is ending too.
        let _ = self.manager.changes.send(changed).await;
    }
}

/// A number from 0 to 1 that differs among containers, which is all that spreading needs.
fn fraction(id: &str) -> f64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as f64 / f64::from(u32::MAX)
}
