//! After a restart: what runs is taken over, what was half made is undone, what was half removed is finished.
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipnet::IpNet;
use node_kit::errors::Chain;
use node_kit::tasks::sound;

use crate::io::{ContainerIo, open_log};
use crate::pipes::Ours;
use crate::runtime::{Container, Runtime, Sandbox};
use crate::state::folder;
use crate::state::{self, ContainerRecord, Phase, SandboxRecord};
use crate::transfer;
use node_kit::lock;

impl Runtime {
    /// Reads the records back and brings the world in line with them. Call it once, before serving. `cluster` are
    /// the pod ranges of the whole cluster: traffic to them keeps its source address.
    pub async fn restore(self: &Arc<Self>, cluster: Vec<IpNet>) {
        let (sandboxes, lost_sandboxes) = state::load::<SandboxRecord>(&folder("sandboxes", ""));
        let (containers, lost_containers) = state::load::<ContainerRecord>(&folder("containers", ""));
        let mut half_made = Vec::new();
        for record in sandboxes {
            let creating = record.creating;
            let sandbox = Sandbox::new(record);
            // One that was stopped when there was no room to write it down.
            if sandbox.record().ready && !folder("ns", &sandbox.record().id).exists() {
                sandbox.declare(|record| record.ready = false);
            }
            let record = sandbox.record();
            if creating {
                half_made.push(record.id.clone());
            }
            // Of a sandbox that was stopped it has ended, and PID 1 has been told that this is on record.
            if let Some(pause) = record.pause.filter(|_| record.ready) {
                self.watch_pause(&sandbox, pause, None);
            }
            lock(&self.sandboxes).insert(record.id, sandbox);
        }
        // Before anything is read on, which goes through the same pipes.
        self.finish_chunks(&containers);
        for record in containers {
            self.adopt(record).await;
        }
        self.exits.start();
        if self.network.has_ranges() {
            Arc::clone(self).resume_network(cluster).await;
        } else {
            // Until the ranges are told no pod is connected, so nobody has to wait.
            sound("network", Arc::clone(self).resume_network(cluster));
        }
        // CNI plugins may need a daemon that is a pod itself, so nothing waits for them.
        let undoing = Arc::clone(self).undo(half_made);
        if self.network.is_cni() {
            sound("undo", undoing);
        } else {
            undoing.await;
        }
        for id in lost_sandboxes {
            // What is still mounted must not be removed.
            if crate::pod::PodFiles::of(&id).remove().is_ok() {
                let _ = state::remove_folder(&folder("sandboxes", &id));
            }
        }
        for id in lost_containers {
            // What is still mounted must not be removed.
            if crate::container::unmount(&folder("containers", &id)).is_ok() {
                let _ = state::remove_folder(&folder("containers", &id));
            }
        }
        self.sweep().await;
    }

    async fn resume_network(self: Arc<Self>, cluster: Vec<IpNet>) {
        if let Err(error) = self.network.resume(&cluster).await {
            tracing::error!(%error, "take up the pod network; pods wait until the node's range is told anew");
        }
    }

    async fn undo(self: Arc<Self>, half_made: Vec<String>) {
        for id in half_made {
            if let Err(error) = self.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = %Chain(&error), "undo a sandbox that was half made");
            }
        }
    }

    async fn adopt(self: &Arc<Self>, record: ContainerRecord) {
        let phase = record.phase;
        let container = Container::new(record.clone());
        match phase {
            Phase::Creating | Phase::Removing => {
                if record.pid != 0 && record.finished_at == 0 {
                    let _ = container.cgroup().kill();
                }
                if let Err(error) = self.erase(&record).await {
                    tracing::warn!(container = record.id, error = %Chain(&error), "finish removing a container");
                    lock(&self.containers).insert(record.id, container);
                }
            }
            Phase::Created | Phase::Exited => {
                lock(&self.containers).insert(record.id, container);
            }
            Phase::Starting | Phase::Running => {
                lock(&self.containers).insert(record.id.clone(), Arc::clone(&container));
                let kept = match &self.machine {
                    Some(machine) => {
                        machine.get(&format!("container/{}", record.id)).await.unwrap_or_default()
                    }
                    None => Vec::new(),
                };
                if phase == Phase::Running || self.resume_start(&container, !kept.is_empty()).await {
                    self.take_over(&container, kept);
                }
            }
        }
    }

    fn take_over(self: &Arc<Self>, container: &Arc<Container>, mut kept: Vec<OwnedFd>) {
        let record = container.record();
        let pidfd = if kept.is_empty() { alive(&record) } else { Some(kept.remove(0)) };
        let pidfd = pidfd.and_then(|pidfd| crate::pipes::watch(pidfd).ok());
        lock(&container.pidfd).clone_from(&pidfd);
        if let Some(io) = self.container_io_of(&record, kept) {
            *lock(&container.io) = Some(io);
        }
        let exit = self.exits.wait((record.pid, record.start_time), pidfd);
        let (runtime, watched) = (Arc::clone(self), Arc::clone(container));
        sound("exit of a container", async move { runtime.ended(&watched, exit.await).await });
    }

    /// Reads on from the descriptors that were kept.
    fn container_io_of(&self, record: &ContainerRecord, mut kept: Vec<OwnedFd>) -> Option<Arc<ContainerIo>> {
        let outputs = if record.config.tty { 1 } else { 2 };
        if kept.len() < outputs {
            return None;
        }
        let stdin = kept.drain(outputs..).next();
        let log = open_log(&record.log_path).unwrap_or_else(|error| {
            tracing::error!(container = record.id, %error, "open a container's log; its output is lost");
            None
        });
        ContainerIo::start(&record.id, Ours { outputs: kept, stdin }, log, Arc::clone(&self.transfer))
            .map_err(
                |error| tracing::error!(container = record.id, %error, "read on from a container's output"),
            )
            .ok()
    }

    /// Brings chunks to their logs that were on their way when our former life ended. One of a container that is gone is thrown away.
    fn finish_chunks(&self, containers: &[ContainerRecord]) {
        let finish = |left: std::io::Result<transfer::Left>| -> std::io::Result<()> {
            let left = left?;
            if let Some(record) = containers.iter().find(|record| record.id == left.note.container)
                && let Some(log) = open_log(&record.log_path)?
            {
                transfer::finish(&left, &log)?;
            }
            Ok(())
        };
        for left in self.transfer.left() {
            if let Err(error) = finish(left) {
                tracing::error!(%error, "bring output to its log that was on its way");
            }
        }
        if let Err(error) = self.transfer.forget() {
            tracing::error!(%error, "empty the pipes for output on its way");
        }
    }

    /// Removes writable layers, network attachments and descriptors that belong to nobody: of a life before a reboot, or half made.
    async fn sweep(&self) {
        let containers: Vec<ContainerRecord> =
            self.containers_of(None).iter().map(|container| container.record()).collect();
        let known: BTreeSet<&String> =
            containers.iter().flat_map(|record| record.volumes.iter().chain([&record.id])).collect();
        for layer in self.images.0.snapshots().iter().filter(|layer| !known.contains(layer)) {
            if let Err(error) = self.images.remove(layer).await {
                tracing::warn!(layer, %error, "remove a writable layer that belongs to nobody");
            }
        }
        let live = self
            .all_sandboxes()
            .iter()
            .map(|sandbox| sandbox.record())
            .filter(|record| record.ready)
            .map(|record| record.id)
            .collect();
        if let Err(error) = self.network.collect(&live).await {
            tracing::warn!(%error, "collect network attachments that belong to nobody");
        }
        let Some(machine) = &self.machine else { return };
        for name in machine.names().await.unwrap_or_default() {
            if let Some(id) = name.strip_prefix("container/")
                && !known.iter().any(|known| *known == id)
            {
                let _ = machine.remove(&name).await;
            }
        }
    }
}

/// Without PID 1's store: the process, if it is still the one on record.
fn alive(record: &ContainerRecord) -> Option<OwnedFd> {
    let pidfd = sys::pidfd::open(record.pid).ok()?;
    (sys::pidfd::start_time(record.pid).ok() == Some(record.start_time)).then_some(pidfd)
}
