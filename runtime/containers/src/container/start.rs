//! Starting a container, and recording how it ends.
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use machine::cri;
use node_kit::errors::Chain;
use node_kit::tasks::sound;

use super::mounts;
use crate::cgroup;
use crate::cgroup::KILL_DEADLINE;
use crate::errors::StartError;
use crate::exits::Exit;
use crate::io::{ContainerIo, DRAIN, open_log};
use crate::launch::{self, Failure, Launched, Request};
use crate::pipes::{Ours, Pipes};
use crate::runtime::{Container, Runtime};
use crate::spec::devices;
use crate::state::folder;
use crate::state::{self, ContainerRecord, Phase};
use node_kit::lock;

/// The most of a failure's text that is kept.
const MAX_MESSAGE: usize = 4096;

impl Runtime {
    /// Starts a created container; returns once its program runs.
    ///
    /// # Errors
    /// Unless it is created, and its sandbox ready; with the reason when its program cannot run, and the container has ended then.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), StartError> {
        let container = self.container(id)?;
        let _busy = container.busy.lock().await;
        let record = container.record();
        if record.phase != Phase::Created {
            return Err(StartError::NotCreated { id: record.id, phase: record.phase });
        }
        if !self.sandbox(&record.sandbox_id)?.record().ready {
            return Err(StartError::SandboxNotReady(record.sandbox_id));
        }
        container.update(|record| record.phase = Phase::Starting)?;
        let started = self.start(&container).await;
        started.map_err(|source| StartError::NeverRan { id: record.id, source })
    }

    async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Failure> {
        let launching = self.exits.launching();
        match self.launch(container).await {
            Ok(launched) => {
                let starting = launched.starting;
                let exit =
                    self.exits.wait((launched.pid, launched.start_time), lock(&container.pidfd).clone());
                drop(launching);
                let begun = self.begin(container, starting).await;
                match &begun {
                    // Before anybody can tell that it has ended.
                    Ok(()) => self.publish(container, cri::ContainerEventType::ContainerStartedEvent),
                    Err(failure) => {
                        let _ = container.cgroup().kill();
                        container.declare(|record| {
                            record.reason = "StartError".into();
                            record.message = shorten(&failure.message);
                            record.exit_code = failure.exit_code;
                        });
                    }
                }
                let (runtime, watched) = (Arc::clone(self), Arc::clone(container));
                let ended = async move { runtime.ended(&watched, exit.await).await };
                let watcher = sound("exit of a container", ended);
                if begun.is_err() {
                    let _ = tokio::time::timeout(KILL_DEADLINE, watcher).await;
                }
                begun
            }
            Err(failure) => {
                drop(launching);
                self.never_ran(container, &failure).await;
                Err(failure)
            }
        }
    }

    /// Makes the container's init, which waits for the word to go on.
    async fn launch(&self, container: &Container) -> Result<Launched, Failure> {
        let record = container.record();
        let failed = |what: &str, error: &dyn std::fmt::Display| Failure::other(format!("{what}: {error}"));
        let cgroup = container.cgroup();
        cgroup.create().map_err(|error| failed("make the container's cgroup", &error))?;
        let bundle = folder("containers", &record.id);
        let request = Request::Create(launch::Container {
            id: record.id.clone(),
            root: folder("launch", ""),
            bundle: bundle.clone(),
            cgroup: cgroup.folder(),
            seccomp: record.seccomp.clone(),
            console: record.config.tty.then(|| bundle.join("c.sock")),
        });
        let log = open_log(&record.log_path)
            .map_err(|error| failed(&format!("open the container's log {}", record.log_path), &error))?;
        let owner = self
            .sandbox(&record.sandbox_id)
            .map_err(|error| failed("look up the pod", &error))
            .and_then(|sandbox| {
                super::user_namespace(&sandbox.record())
                    .map_err(|error| failed("open the pod's user namespace", &error))
            })?;
        let laid = mounts::lay(&bundle, owner.as_ref())
            .map_err(|error| failed("prepare the container's volumes", &error));
        let launched = match laid {
            Ok(()) => self.start_init(&record, &request, cgroup.folder()).await,
            Err(failure) => Err(failure),
        };
        // By now libcontainer has copies of its own.
        mounts::lift(&bundle).map_err(|error| failed("clear away after the volumes", &error))?;
        let (launched, ours) = launched?;
        container
            .update(|record| (record.pid, record.start_time) = (launched.pid, launched.start_time))
            .map_err(|error| Failure::other(Chain(&error).to_string()))?;
        let mut kept = vec![launched.pidfd.as_raw_fd()];
        kept.extend(ours.raw());
        self.keep(&record.id, &kept).await;
        let pidfd = launched
            .pidfd
            .try_clone()
            .and_then(crate::pipes::watch)
            .map_err(|error| failed("watch the container", &error))?;
        *lock(&container.pidfd) = Some(pidfd);
        let io = ContainerIo::start(&record.id, ours, log, Arc::clone(&self.transfer))
            .map_err(|error| failed("read the container's output", &error))?;
        *lock(&container.io) = Some(io);
        Ok(launched)
    }

    /// Launches with the streams that the container asks for.
    async fn start_init(
        &self,
        record: &ContainerRecord,
        request: &Request,
        cgroup: PathBuf,
    ) -> Result<(Launched, Ours), Failure> {
        if record.config.tty {
            let mut launched = launch::launch(request, &self.base.raw(), [cgroup]).await?;
            let terminal = launched.terminal.take().ok_or_else(|| Failure::other("no terminal arrived"))?;
            return Ok((launched, Ours { outputs: vec![terminal], stdin: None }));
        }
        let (uid, gid) = self.host_ids(record);
        let pipes = Pipes::new(record.config.stdin, uid, gid)
            .map_err(|error| Failure::other(format!("make the container's pipes: {error}")))?;
        let mut theirs = self.base.raw().to_vec();
        theirs.extend(pipes.theirs());
        Ok((launch::launch(request, &theirs, [cgroup]).await?, pipes.ours))
    }

    /// The container's user as the host knows it.
    pub(crate) fn host_ids(&self, record: &ContainerRecord) -> (u32, u32) {
        let sandbox = self.sandbox(&record.sandbox_id).map(|sandbox| sandbox.record());
        let options = sandbox.map(|record| state::options(&record.config)).unwrap_or_default();
        match crate::user_namespace::maps(&options) {
            Ok(Some(maps)) => (maps.uids.host(record.user.uid), maps.gids.host(record.user.gid)),
            _ => (record.user.uid, record.user.gid),
        }
    }

    /// Sets the limits, gives the word, and waits until the program runs.
    async fn begin(&self, container: &Container, starting: launch::Starting) -> Result<(), Failure> {
        limit(container)?;
        give_word(container)
            .map_err(|error| Failure::other(format!("tell the container's init to go on: {error}")))?;
        runs(container);
        starting.finished().await
    }
    async fn never_ran(&self, container: &Container, failure: &Failure) {
        let record = container.record();
        if let Err(error) = container.cgroup().remove(KILL_DEADLINE).await {
            tracing::warn!(container = record.id, %error, "clean up after a failed start");
        }
        let _ = state::remove_folder(&folder("launch", &record.id));
        container.declare(|record| {
            record.phase = Phase::Exited;
            record.finished_at = state::now();
            record.exit_code = failure.exit_code;
            record.reason = "StartError".into();
            record.message = shorten(&failure.message);
        });
        container.ended.send_replace(true);
    }

    /// Records how a container ended, once.
    pub(crate) async fn ended(self: Arc<Self>, container: &Arc<Container>, exit: Exit) {
        let cgroup = container.cgroup();
        let out_of_memory = cgroup.oom_kills() > 0;
        // In a shared pid namespace others of the container may live on.
        if let Err(error) = cgroup.kill() {
            tracing::warn!(%error, "end what a container left behind");
        }
        let io = lock(&container.io).clone();
        if let Some(io) = io {
            let _ = tokio::time::timeout(DRAIN, io.drained()).await;
        }
        let (record, on_file) = container.declare(|record| {
            record.phase = if record.phase == Phase::Removing { Phase::Removing } else { Phase::Exited };
            record.finished_at = exit.at;
            // A start that went on after a restart is recorded when its program may have ended already.
            record.started_at = record.started_at.min(exit.at);
            if record.reason.is_empty() {
                record.exit_code = exit.code;
                record.reason = match (out_of_memory, exit.code) {
                    (true, _) => "OOMKilled",
                    (_, 0) => "Completed",
                    _ => "Error",
                }
                .into();
            }
        });
        // Only what is on record may be forgotten elsewhere.
        if on_file {
            self.exits.acknowledge((record.pid, record.start_time));
        }
        container.ended.send_replace(true);
        self.publish(container, cri::ContainerEventType::ContainerStoppedEvent);
        if let Err(error) = cgroup.remove(KILL_DEADLINE).await {
            tracing::warn!(container = record.id, %error, "remove the cgroup of a container that has ended");
        }
        let _ = state::remove_folder(&folder("launch", &record.id));
        if let Some(machine) = &self.machine {
            let _ = machine.remove(&format!("container/{}", record.id)).await;
        }
        if !on_file {
            // Nobody waits for room.
            let (exits, container) = (self.exits.clone(), Arc::clone(container));
            sound("record", async move {
                container.on_file().await;
                exits.acknowledge((record.pid, record.start_time));
            });
        }
    }
}

/// Limits resources and restricts devices. The container's init is in the cgroup and has not yet run anything of the user's; the launch, which was there too and needs
/// memory of its own, has ended.
pub(super) fn limit(container: &Container) -> Result<(), Failure> {
    let record = container.record();
    let resources =
        record.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    container
        .cgroup()
        .write(&cgroup::settings(&resources, true))
        .map_err(|error| Failure::other(format!("limit the container: {error}")))?;
    if record.privileged {
        return Ok(());
    }
    let failed = |what: &str, error: io::Error| Failure::other(format!("{what}: {error}"));
    let nodes = devices::find(&record.config.devices).map_err(|error| failed("look up devices", error))?;
    fs::File::open(container.cgroup().folder())
        .and_then(|cgroup| sys::device_filter::restrict(&cgroup, &devices::allowed(&nodes)))
        .map_err(|error| failed("restrict the container's devices", error))
}

/// Tells the container's init to run the program. `ConnectionRefused` or `NotFound` when it has had the word before.
pub(super) fn give_word(container: &Container) -> io::Result<()> {
    let path = folder("launch", &container.record().id).join("notify.sock");
    std::os::unix::net::UnixStream::connect(path)?.write_all(b"start container")
}

/// Tells that the program runs.
pub(super) fn runs(container: &Container) {
    container.declare(|record| {
        record.phase = Phase::Running;
        record.started_at = state::now();
    });
}

fn shorten(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}
