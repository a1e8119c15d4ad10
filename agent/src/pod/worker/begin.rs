//! Beginning what was decided; each action is a task of its own.
use k8s_openapi::api::core::v1::Container;

use super::{Desired, Done, Worker};
use crate::allocation::{Size, resizable};
use crate::backoff::Nanos;
use crate::clock::now;
use crate::events::Kind as Severity;
use crate::pod::decide::{Action, Failure, Operation};
use crate::pod::observed::State;
use crate::pod::resize::Change;
use crate::pod::start::Scene;
use crate::spec;
use crate::spec::Kind;

fn removed(what: &str, result: crate::cri::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if !error.is_not_found() => Err(Failure {
            reason: String::new(),
            message: format!("remove {what}: {error}"),
            retry_at: Failure::BY_BACK_OFF,
        }),
        _ => Ok(()),
    }
}

impl Worker {
    pub(super) fn scene(&self, desired: &Desired) -> Scene {
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
            preparing: self.preparing.clone(),
        }
    }

    pub(super) fn spawn(&mut self, operation: Operation, task: impl Future<Output = Done> + Send + 'static) {
        self.memory.in_flight.insert(operation.clone());
        let handle = self.tasks.spawn(task);
        self.running.insert(handle.id(), (operation, handle));
    }

    pub(super) fn begin(&mut self, desired: &Desired, action: &Action) {
        let scene = self.scene(desired);
        let cri = self.ctx.cri.clone();
        match action.clone() {
            Action::CreateSandbox { attempt } => {
                let size = Size::of_pod(&desired.pod);
                self.spawn(Operation::Sandbox, async move {
                    Done::Sandbox(scene.create_sandbox(attempt).await, size)
                });
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
                        retry_at: Failure::BY_BACK_OFF,
                    }))
                });
            }
            Action::RemoveContainer { id } => {
                self.spawn(Operation::Remove(id.clone()), async move {
                    Done::Removed(removed(&format!("container {id}"), cri.remove_container(&id).await))
                });
            }
            Action::RemoveSandbox { id } => {
                self.spawn(Operation::Remove(id.clone()), async move {
                    Done::Removed(removed(&format!("sandbox {id}"), cri.remove_pod_sandbox(&id).await))
                });
            }
            Action::Resize => {
                let changes = self.changes(desired);
                self.spawn(Operation::Resize, async move { Done::Resized(scene.resize(changes).await) });
            }
            Action::Release => {
                self.refresh.end();
                self.spawn(Operation::Release, async move { Done::Released(scene.release().await) });
            }
        }
    }

    pub(super) fn begin_start(&mut self, scene: Scene, name: String, attempt: u32) {
        let Some(sandbox) = self.observed.current().cloned() else { return };
        if let Some(last) = self.observed.container(&name).filter(|c| c.state == State::Exited) {
            let ended_at = last.ended_at;
            self.memory.backoff.entry(name.clone()).or_default().next(ended_at, now());
        }
        let leftover =
            self.observed.active(&name).filter(|c| c.state == State::Created).map(|c| c.id.clone());
        let volumes = self.volumes.clone();
        let target = spec::ephemeral_containers(&scene.pod)
            .iter()
            .find(|c| c.name == name)
            .and_then(|c| c.target_container_name.as_deref())
            .and_then(|target| self.observed.container(target))
            .map(|c| c.id.clone());
        let size = spec::find(&scene.pod, &name)
            .map(|(_, c)| Size::of_container(&scene.pod, &c))
            .unwrap_or_default();
        self.spawn(Operation::Start(name.clone()), async move {
            if let Some(id) = leftover {
                scene.remove_unstarted(&id).await;
            }
            let result = scene.start(&name, attempt, &sandbox, volumes.as_ref(), target).await;
            Done::Started(name, attempt, result, size)
        });
    }

    /// The running containers whose size is not what it should be.
    fn changes(&self, desired: &Desired) -> Vec<Change> {
        let change = |container: &Container| {
            let running = self.observed.active(&container.name).filter(|c| c.state == State::Running)?;
            let old = *self.memory.actuated.get(&container.name)?;
            let new = Size::of_container(&desired.pod, container);
            (old != new).then(|| Change { id: running.id.clone(), container: container.clone(), old, new })
        };
        resizable(&desired.pod).filter_map(change).collect()
    }

    pub(super) fn probe_grace(&self, desired: &Desired, name: &str, reason: Option<&str>) -> Option<i64> {
        let (_, container) = spec::find(&desired.pod, name)?;
        let probe =
            if reason == Some("StartupProbe") { container.startup_probe } else { container.liveness_probe };
        probe?.termination_grace_period_seconds
    }

    pub(super) fn say_back_off(&mut self, desired: &Desired, name: &str, until: Nanos) {
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
}
