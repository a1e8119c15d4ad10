//! The runtime's centre: what it holds, and the look-ups that every verb begins with. The verbs are in [`crate::pod`], [`crate::container`] and
//! [`crate::exec`].
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use images::Images;
use machine::cri;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, watch};

use crate::cgroup::Cgroup;
use crate::cpu::LastCpu;
use crate::errors::NoSuch;
use crate::errors::{Step, StepError};
use crate::event::Event;
use crate::exits::Exits;
use crate::ground::Ground;
use crate::io::ContainerIo;
use crate::launch::mount_ns::MountNs;
use crate::record::Kept;
use crate::seccomp;
use crate::spec::Pid;
use crate::state::folder;
use crate::state::{ContainerRecord, Phase, SandboxRecord};
use crate::transfer::Transfer;
use node_kit::lock;
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
    pub base: MountNs,
    events: broadcast::Sender<Arc<Event>>,
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

    /// Puts on record what the pod as a whole may use; its cgroup is the caller's.
    ///
    /// # Errors
    /// When there is no room for the record; nothing has changed then.
    pub fn record_resources(
        &self,
        overhead: Option<cri::LinuxContainerResources>,
        resources: Option<cri::LinuxContainerResources>,
    ) -> Result<(), StepError> {
        let updated = self.update(|record| {
            let linux = record.config.linux.get_or_insert_default();
            (linux.overhead, linux.resources) = (overhead, resources);
        });
        updated.map(drop)
    }

    /// The cgroup of its pause process, where there is one.
    pub(crate) fn cgroup(&self) -> Cgroup {
        self.record.with(|record| Cgroup::new(&crate::state::cgroup_parent(&record.config), &record.id))
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

    /// Opens its log anew, which has been moved away; one without streams has none to open.
    ///
    /// # Errors
    /// As open(2), with the path.
    pub async fn reopen_log(&self) -> std::io::Result<()> {
        let io = lock(&self.io).clone();
        match io {
            Some(io) => io.reopen_log().await,
            None => Ok(()),
        }
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
        ground: Ground,
    ) -> Arc<Self> {
        let Ground { base, transfer } = ground;
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
        let (container_id, sandbox_id) =
            container.record.with(|record| (record.id.clone(), record.sandbox_id.clone()));
        let sandbox = self.sandbox(&sandbox_id).ok().map(|sandbox| sandbox.record());
        let containers = self.containers_of(Some(&sandbox_id));
        let containers = containers.iter().map(|container| container.record()).collect();
        // Nobody may be left who listens.
        let _ = self.events.send(Arc::new(Event {
            container_id,
            kind,
            at: crate::state::now(),
            sandbox,
            containers,
        }));
    }

    /// What happens to containers from now on. Who is slow misses some, and is told so.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
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
    let of_pod = crate::state::options(&sandbox.config);
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
