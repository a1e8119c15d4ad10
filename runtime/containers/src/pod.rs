//! Pod sandboxes: namespaces, files, addresses. Nothing of them is a process, but for a pause process where a pod shares its pid namespace.
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use machine::cri;
use node_kit::errors::Chain;
use node_kit::tasks::sound;
use tokio::io::unix::AsyncFd;

mod files;

use crate::cgroup::KILL_DEADLINE;
use crate::errors::SandboxError;
use crate::errors::Step;
use crate::exits::Key;
use crate::launch::{Request, launch};
use crate::runtime::{Runtime, Sandbox};
use crate::state::folder;
use crate::state::{self, SandboxRecord};
use crate::state::{options, remove_folder};
use crate::{namespaces, user_namespace};
use node_kit::lock;
use pod_network::{Dns, PodRequest, PortMapping, Protocol};

pub(crate) use files::PodFiles;

/// The one runtime handler besides the default.
pub const HANDLER: &str = "pintle";

fn is_host(mode: i32) -> bool {
    mode == cri::NamespaceMode::Node as i32
}

impl Runtime {
    /// Makes a sandbox; when a step fails everything before it is undone.
    ///
    /// # Errors
    /// For what cannot be, and with the step that failed.
    pub async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        handler: String,
    ) -> Result<String, SandboxError> {
        if config.metadata.is_none() {
            return Err(SandboxError::Invalid("the sandbox config has no metadata".into()));
        }
        if !handler.is_empty() && handler != HANDLER {
            return Err(SandboxError::Invalid(format!("no runtime handler named {handler:?} is configured")));
        }
        let modes = options(&config);
        user_namespace::maps(&modes).map_err(SandboxError::Invalid)?;
        let sysctls = config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
        namespaces::check_sysctls(sysctls.keys(), !is_host(modes.network), !is_host(modes.ipc))
            .map_err(SandboxError::Invalid)?;
        let id = state::new_id().step("make a sandbox id")?;
        let own = folder("sandboxes", &id);
        state::make_folder(&own, state::CLOSED)
            .step(format_args!("make the sandbox's folder {}", own.display()))?;
        let sandbox = Sandbox::new(SandboxRecord {
            id: id.clone(),
            config,
            runtime_handler: handler,
            created_at: state::now(),
            ready: false,
            creating: true,
            ips: Vec::new(),
            pause: None,
            pause_ended: false,
        });
        let _busy = sandbox.busy.lock().await;
        if let Err(error) = sandbox.update(|_| {}) {
            let _ = remove_folder(&own);
            return Err(error.into());
        }
        // A client that goes away must not leave half a sandbox: the record says `creating`, and removal undoes what there is.
        match self.make(&sandbox).await {
            Ok(()) => {
                lock(&self.sandboxes).insert(id.clone(), Arc::clone(&sandbox));
                Ok(id)
            }
            Err(error) => {
                if let Err(second) = self.dismantle(&sandbox).await {
                    let second = Chain(&second);
                    tracing::warn!(sandbox = id, %second, "undo a failed sandbox; it is tried again when it is stopped, or the runtime starts");
                    // Listed, as one that is not ready: so whoever wanted it stops and removes it.
                    lock(&self.sandboxes).insert(id.clone(), Arc::clone(&sandbox));
                } else {
                    let _ = fs::remove_dir_all(&own);
                }
                Err(error)
            }
        }
    }

    async fn make(&self, sandbox: &Arc<Sandbox>) -> Result<(), SandboxError> {
        let record = sandbox.record();
        let (id, modes) = (&record.id, options(&record.config));
        let pins = folder("ns", id);
        let maps = user_namespace::maps(&modes).map_err(SandboxError::Invalid)?;
        state::make_folder(&pins, state::CLOSED)
            .and_then(|()| maps.map_or(Ok(()), |maps| state::admit(&pins, maps.gids.host(0))))
            .step(format_args!("make {} for the pod's namespaces", pins.display()))?;
        let network = (!is_host(modes.network)).then(|| pins.join("net"));
        if let (Some(path), None) = (&network, maps) {
            self.network
                .create_netns(path)
                .await
                .step(format_args!("make the network namespace {}", path.display()))?;
        }
        let hostname = hostname(&record.config).step("read the node's hostname")?;
        let linux = record.config.linux.as_ref();
        let request = namespaces::Request {
            ipc: (!is_host(modes.ipc)).then(|| pins.join("ipc")),
            uts: network.is_some().then(|| pins.join("uts")),
            hostname: hostname.clone(),
            network: network.clone(),
            sysctls: linux.map(|linux| linux.sysctls.clone().into_iter().collect()).unwrap_or_default(),
        };
        let made = match maps {
            Some(maps) => user_namespace::create(&pins, maps, &request).await,
            None => namespaces::create(request),
        };
        made.step("make the pod's namespaces")?;
        PodFiles::of(id).make(&record, &hostname, is_host(modes.ipc)).step("write the pod's files")?;
        if modes.pid() == cri::NamespaceMode::Pod {
            self.pause(sandbox).await?;
        }
        let mut ips = Vec::new();
        if let Some(netns) = network {
            let addresses = self
                .network
                .setup(&request_network(&record, netns))
                .await
                .step("connect the pod to the network")?;
            ips = addresses.ips.iter().map(ToString::to_string).collect();
        }
        let made = sandbox.update(|record| {
            record.ips = ips;
            record.ready = !record.pause_ended;
            record.creating = false;
        })?;
        if made.ready { Ok(()) } else { Err(SandboxError::PauseEnded(record.id)) }
    }

    async fn pause(&self, sandbox: &Arc<Sandbox>) -> Result<(), SandboxError> {
        let id = sandbox.record().id;
        let root = folder("empty", "");
        state::make_folder(&root, state::ALL_MAY_PASS)
            .step(format_args!("make the empty folder {}", root.display()))?;
        let cgroup = sandbox.cgroup();
        cgroup.create().step("make the pause process's cgroup")?;
        let launching = self.exits.launching();
        let launched = launch(&Request::Pause { root, pins: folder("ns", &id) }, &[], [cgroup.folder()])
            .await
            .step("start a pause process")?;
        let key = (launched.pid, launched.start_time);
        sandbox.update(|record| record.pause = Some(key))?;
        // By its pidfd: without PID 1's ledger nothing else tells that it has ended, and nobody would reap it.
        let pidfd = launched.pidfd.try_clone().and_then(crate::pipes::watch);
        let pidfd = pidfd.step("watch a pause process")?;
        self.watch_pause(sandbox, key, Some(pidfd));
        drop(launching);
        let source = format!("/proc/{}/ns/pid", launched.pid);
        namespaces::pin(Path::new(&source), &folder("ns", &id).join("pid"))
            .step("pin the pod's pid namespace")?;
        Ok(launched.starting.stay().await.step("keep a pause process")?)
    }

    /// Sees to it that a sandbox whose pause process has ended is not ready: nothing can be started in its
    /// pid namespace any more, so somebody has to make another one.
    pub(crate) fn watch_pause(&self, sandbox: &Arc<Sandbox>, key: Key, pidfd: Option<Arc<AsyncFd<OwnedFd>>>) {
        let (exit, exits, sandbox) = (self.exits.wait(key, pidfd), self.exits.clone(), Arc::clone(sandbox));
        sound("pause process", async move {
            exit.await;
            if sandbox.record().ready {
                tracing::warn!(
                    sandbox = sandbox.record().id,
                    "the pause process has ended, and with it the pod's processes"
                );
            }
            // Also while it is being made, which would call it ready at its end.
            sandbox.declare(|record| (record.ready, record.pause_ended) = (false, true));
            sandbox.on_file().await;
            exits.acknowledge(key);
        });
    }

    /// Ends what runs in the sandbox and gives its network back. Any number of times.
    ///
    /// # Errors
    /// With what could not be undone; a further call tries again.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), SandboxError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _busy = sandbox.busy.lock().await;
        let id = sandbox.record().id;
        for container in self.containers_of(Some(&id)) {
            self.stop_container(&container, Duration::ZERO).await?;
        }
        self.dismantle(&sandbox).await
    }

    async fn dismantle(&self, sandbox: &Sandbox) -> Result<(), SandboxError> {
        // First: from here on it is of no use to anybody, also if this is not brought to its end.
        let (record, _) = sandbox.declare(|record| record.ready = false);
        self.network.teardown(&record.id).await.step("disconnect the pod")?;
        if let Some((pid, start_time)) = record.pause
            && sys::pidfd::start_time(pid).ok() == Some(start_time)
        {
            let _ = sys::pidfd::open(pid).and_then(|pidfd| sys::pidfd::signal(&pidfd, nix::libc::SIGKILL));
        }
        if options(&record.config).pid() == cri::NamespaceMode::Pod {
            let removed = sandbox.cgroup().remove(KILL_DEADLINE).await;
            removed.step("remove the pause process's cgroup")?;
        }
        let pins = folder("ns", &record.id);
        self.network.remove_netns(&pins.join("net")).await.step("remove the pod's network namespace")?;
        let undo = || -> io::Result<()> {
            for kind in ["ipc", "uts", "pid", "user"] {
                namespaces::unmount(&pins.join(kind))?;
            }
            remove_folder(&pins)?;
            PodFiles::of(&record.id).remove()
        };
        Ok(undo().step(format_args!("remove the pod's namespaces in {}", pins.display()))?)
    }

    /// Removes the sandbox with its containers.
    ///
    /// # Errors
    /// As [`Runtime::stop_sandbox`].
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), SandboxError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let id = sandbox.record().id;
        self.stop_sandbox(&id).await?;
        let _busy = sandbox.busy.lock().await;
        for container in self.containers_of(Some(&id)) {
            self.remove_container(&container.record().id).await?;
        }
        let own = folder("sandboxes", &id);
        remove_folder(&own).step(format_args!("remove the sandbox's folder {}", own.display()))?;
        lock(&self.sandboxes).remove(&id);
        Ok(())
    }
}

fn request_network(record: &SandboxRecord, netns: PathBuf) -> PodRequest {
    let config = &record.config;
    let metadata = config.metadata.clone().unwrap_or_default();
    let dns = config.dns_config.clone().unwrap_or_default();
    PodRequest {
        sandbox_id: record.id.clone(),
        netns,
        ports: config.port_mappings.iter().filter_map(port).collect(),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        annotations: config.annotations.clone().into_iter().collect(),
        dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        cgroup: config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default(),
    }
}

fn port(mapping: &cri::PortMapping) -> Option<PortMapping> {
    let number = |value: i32| u16::try_from(value).ok().filter(|port| *port > 0);
    Some(PortMapping {
        protocol: match mapping.protocol() {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: number(mapping.container_port)?,
        host_port: number(mapping.host_port)?,
        host_ip: mapping.host_ip.parse().ok(),
    })
}

fn hostname(config: &cri::PodSandboxConfig) -> io::Result<String> {
    if !config.hostname.is_empty() {
        return Ok(config.hostname.clone());
    }
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

/// The hostname a container of the pod sees.
pub(crate) fn hostname_of(record: &SandboxRecord) -> String {
    hostname(&record.config).unwrap_or_default()
}
