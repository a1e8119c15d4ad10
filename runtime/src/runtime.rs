//! The runtime's centre: what it holds, and the look-ups that every verb begins with. The verbs are in [`crate::pod`], [`crate::container`] and
//! [`crate::exec`].
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use images::Images;
use machine::cri;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, watch};

use crate::cgroup::Cgroup;
use crate::exits::Exits;
use crate::io::ContainerIo;
use crate::launch::base::Base;
use crate::record::Kept;
use crate::seccomp;
use crate::spec::Pid;
use crate::state::{ContainerRecord, Phase, SandboxRecord};
use crate::stats::LastCpu;
use crate::step::{Step, StepError};
use crate::transfer::Transfer;
use node_kit::machine_socket::Client as MachineSocket;
use pod_network::PodNetwork;

/// Events a slow listener may lag behind.
const EVENT_BACKLOG: usize = 1024;

/// Everything the runtime holds.
pub struct Runtime {
    pub images: Images,
    pub network: Arc<PodNetwork>,
    pub machine: Option<Arc<MachineSocket>>,
    pub exits: Exits,
    pub seccomp: seccomp::Cache,
    pub transfer: Arc<Transfer>,
    /// Where containers are made.
    pub base: Base,
    pub events: broadcast::Sender<cri::ContainerEventResponse>,
    pub(crate) sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// A pod sandbox. `busy` is held by whoever changes it.
#[derive(Debug)]
pub struct Sandbox {
    pub busy: tokio::sync::Mutex<()>,
    record: Arc<Kept<SandboxRecord>>,
    pub(crate) last_cpu: LastCpu,
}

/// A container. `busy` is held by whoever changes it.
#[derive(Debug)]
pub struct Container {
    pub busy: tokio::sync::Mutex<()>,
    record: Arc<Kept<ContainerRecord>>,
    /// True once its exit is on record.
    pub ended: watch::Sender<bool>,
    pub io: Mutex<Option<Arc<ContainerIo>>>,
    pub pidfd: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    pub(crate) last_cpu: LastCpu,
}

/// What is asked for by an id that nothing has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuch {
    #[error("container {0:?} does not exist")]
    Container(String),
    #[error("pod sandbox {0:?} does not exist")]
    Sandbox(String),
}

/// A mutex whose data is whole after every statement, so that a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Folders below [`machine::paths::RUNTIME_RUN`].
pub fn folder(kind: &str, id: &str) -> PathBuf {
    Path::new(machine::paths::RUNTIME_RUN).join(kind).join(id)
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Arc<Self> {
        let folder = folder("sandboxes", &record.id);
        Arc::new(Self {
            busy: tokio::sync::Mutex::default(),
            record: Arc::new(Kept::new(folder, record)),
            last_cpu: LastCpu::default(),
        })
    }

    /// What is on record.
    pub fn record(&self) -> SandboxRecord {
        self.record.get()
    }

    /// Changes the record on file, and then what is told: for what is about to be done.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<SandboxRecord, StepError> {
        let updated = self.record.update(change);
        updated.step(format_args!("record the sandbox {}", self.record.with(|record| record.id.clone())))
    }

    /// Changes what is told, whether or not there is room for it on file, which follows: for what has
    /// happened already, and for what is to go. Returns whether it is on file.
    pub(crate) fn declare(&self, change: impl FnOnce(&mut SandboxRecord)) -> (SandboxRecord, bool) {
        self.record.declare_and_follow(change)
    }

    /// Waits until all that is told is on file, or has been removed.
    pub(crate) async fn on_file(&self) {
        self.record.on_file().await;
    }

    /// The cgroup of its pause process, where there is one.
    pub(crate) fn cgroup(&self) -> Cgroup {
        self.record.with(|record| Cgroup::new(&crate::pod::cgroup_parent(&record.config), &record.id))
    }
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        let ended = watch::Sender::new(record.phase == Phase::Exited);
        let folder = folder("containers", &record.id);
        Arc::new(Self {
            busy: tokio::sync::Mutex::default(),
            record: Arc::new(Kept::new(folder, record)),
            ended,
            io: Mutex::default(),
            pidfd: Mutex::default(),
            last_cpu: LastCpu::default(),
        })
    }

    /// What is on record.
    pub fn record(&self) -> ContainerRecord {
        self.record.get()
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.record.with(|record| record.phase)
    }

    /// Changes the record on file, and then what is told: for what is about to be done.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<ContainerRecord, StepError> {
        let updated = self.record.update(change);
        updated.step(format_args!("record the container {}", self.record.with(|record| record.id.clone())))
    }

    /// Changes what is told, whether or not there is room for it on file, which follows: for what has
    /// happened already, and for what is to go. Returns whether it is on file.
    pub(crate) fn declare(&self, change: impl FnOnce(&mut ContainerRecord)) -> (ContainerRecord, bool) {
        self.record.declare_and_follow(change)
    }

    /// Waits until all that is told is on file, or has been removed.
    pub(crate) async fn on_file(&self) {
        self.record.on_file().await;
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> Cgroup {
        self.record.with(|record| Cgroup::new(&record.cgroup_parent, &record.id))
    }
}

impl Runtime {
    /// An empty runtime.
    pub fn new(
        images: Images,
        network: Arc<PodNetwork>,
        machine: Option<Arc<MachineSocket>>,
        transfer: Arc<Transfer>,
        base: Base,
    ) -> Arc<Self> {
        Arc::new(Self {
            images,
            network,
            exits: Exits::new(machine.clone()),
            machine,
            seccomp: seccomp::Cache::new(folder("seccomp", "")),
            transfer,
            base,
            events: broadcast::channel(EVENT_BACKLOG).0,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
        })
    }

    /// A container by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// When there is none.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, NoSuch> {
        find(&lock(&self.containers), id).ok_or_else(|| NoSuch::Container(id.to_owned()))
    }

    /// A sandbox by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// When there is none.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, NoSuch> {
        find(&lock(&self.sandboxes), id).ok_or_else(|| NoSuch::Sandbox(id.to_owned()))
    }

    /// Every container, or those of one sandbox.
    pub fn containers_of(&self, sandbox: Option<&str>) -> Vec<Arc<Container>> {
        let all = lock(&self.containers);
        let mine = |container: &&Arc<Container>| {
            sandbox.is_none_or(|id| container.record.with(|record| record.sandbox_id == id))
        };
        all.values().filter(mine).cloned().collect()
    }

    /// Every sandbox.
    pub fn all_sandboxes(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.sandboxes).values().cloned().collect()
    }

    /// Keeps a container's descriptors across our death. Without PID 1's store they die with us.
    pub(crate) async fn keep(&self, id: &str, descriptors: &[std::os::fd::RawFd]) {
        let Some(machine) = &self.machine else { return };
        if let Err(error) = machine.put(&format!("container/{id}"), descriptors).await {
            tracing::error!(container = id, %error, "keep a container's streams in PID 1; they will be lost if the runtime dies");
        }
    }

    /// Lets PID 1 drop its copy of a container's stdin, so that the container reads the end of it.
    pub(crate) async fn forget_stdin(&self, container: &Container) {
        let Some(machine) = &self.machine else { return };
        let name = format!("container/{}", container.record().id);
        let Ok(mut kept) = machine.get(&name).await else { return };
        kept.truncate(3);
        let raw: Vec<_> = kept.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        if let Err(error) = machine.put(&name, &raw).await {
            tracing::warn!(%error, "close a container's stdin in PID 1");
        }
    }

    /// Tells listeners what happened to a container.
    pub(crate) fn publish(&self, container: &Container, kind: cri::ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let record = container.record();
        let sandbox = self
            .sandbox(&record.sandbox_id)
            .ok()
            .map(|sandbox| crate::cri::convert::sandbox_status(&sandbox.record()));
        let statuses = self
            .containers_of(Some(&record.sandbox_id))
            .iter()
            .map(|container| crate::cri::convert::container_status(&container.record()))
            .collect();
        let _ = self.events.send(cri::ContainerEventResponse {
            container_id: record.id,
            container_event_type: kind as i32,
            created_at: crate::state::now(),
            pod_sandbox_status: sandbox,
            containers_statuses: statuses,
        });
    }
}

fn find<T>(map: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    let mut candidates = map.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    match (candidates.next(), candidates.next()) {
        (Some((_, found)), None) => Some(Arc::clone(found)),
        _ => None,
    }
}

/// The namespaces a container joins.
pub(crate) fn namespaces(
    sandbox: &SandboxRecord,
    options: &cri::NamespaceOption,
    target: Option<i32>,
) -> crate::spec::Namespaces {
    let pinned = |kind: &str| Some(folder("ns", &sandbox.id).join(kind).to_string_lossy().into_owned());
    let of_pod = crate::pod::options(&sandbox.config);
    let host = cri::NamespaceMode::Node as i32;
    let own_users = matches!(crate::user_namespace::maps(&of_pod), Ok(Some(_)));
    crate::spec::Namespaces {
        user: if own_users { pinned("user") } else { None },
        network: if of_pod.network == host { None } else { pinned("net") },
        uts: if of_pod.network == host { None } else { pinned("uts") },
        ipc: if of_pod.ipc == host { None } else { pinned("ipc") },
        pid: match (options.pid(), target) {
            (cri::NamespaceMode::Node, _) => Pid::Host,
            (cri::NamespaceMode::Pod, _) => Pid::Join(pinned("pid").unwrap_or_default()),
            (cri::NamespaceMode::Target, Some(pid)) => Pid::Join(format!("/proc/{pid}/ns/pid")),
            _ => Pid::Own,
        },
    }
}
