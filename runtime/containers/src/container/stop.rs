//! Ending and removing containers.
use std::time::Duration;

use machine::cri;

use crate::cgroup::KILL_DEADLINE;
use crate::errors::{RemoveError, StopError};
use crate::errors::{Step, StepError};
use crate::runtime::{Container, Runtime};
use crate::state::folder;
use crate::state::{ContainerRecord, Phase};
use node_kit::lock;

impl Runtime {
    /// Ends a container: its stop signal, after `grace` everything of it is killed.
    ///
    /// # Errors
    /// When it cannot even be killed.
    pub async fn stop_container(&self, container: &Container, grace: Duration) -> Result<(), StopError> {
        let mut ended = container.ended.subscribe();
        if container.phase() == Phase::Starting {
            // Whoever starts it is quick.
            let _ = tokio::time::timeout(KILL_DEADLINE, container.busy.lock()).await;
        }
        let record = container.record();
        match record.phase {
            Phase::Running => {}
            // Its start takes too long, or could not go on after a restart and is on its way to have ended.
            Phase::Starting => {
                let waited = tokio::time::timeout(KILL_DEADLINE, ended.wait_for(|ended| *ended)).await;
                return waited.map(drop).map_err(|_| StopError::Starting(record.id));
            }
            _ => return Ok(()),
        }
        if grace > Duration::ZERO {
            let pidfd = lock(&container.pidfd).clone();
            match pidfd {
                Some(pidfd) => drop(sys::pidfd::signal(pidfd.get_ref(), record.stop_signal)),
                None => tracing::warn!(container = record.id, "no pidfd to signal"),
            }
            if tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Ok(());
            }
        }
        let pidfd = lock(&container.pidfd).clone();
        if let Some(pidfd) = pidfd {
            let _ = sys::pidfd::signal(pidfd.get_ref(), nix::libc::SIGKILL);
        }
        container.cgroup().kill().step(format_args!("kill the container {}", record.id))?;
        match tokio::time::timeout(KILL_DEADLINE, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StopError::LivesOn { id: record.id, within: KILL_DEADLINE }),
        }
    }

    /// Removes a container, ending it first.
    ///
    /// # Errors
    /// With what could not be removed; a further call tries again.
    pub async fn remove_container(&self, id: &str) -> Result<(), RemoveError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container(&container, Duration::ZERO).await?;
        let _busy = container.busy.lock().await;
        // It goes, whether or not there is room to write that down: what is on file is removed with it.
        let (record, _) = container.declare(|record| record.phase = Phase::Removing);
        let erased = self.erase(&record).await;
        erased.map_err(|source| RemoveError::Failed { id: record.id.clone(), source })?;
        lock(&self.containers).remove(&record.id);
        self.publish(&container, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Removes every trace of a container that does not run.
    pub(crate) async fn erase(&self, record: &ContainerRecord) -> Result<(), StepError> {
        crate::cgroup::Cgroup::new(&record.cgroup_parent, &record.id)
            .remove(KILL_DEADLINE)
            .await
            .step("remove its cgroup")?;
        let bundle = folder("containers", &record.id);
        super::mounts::undo(&bundle).step(format_args!("unmount what lies in {}", bundle.display()))?;
        for name in record.volumes.iter().chain([&record.id]) {
            self.images.remove(name).await.step(format_args!("remove the writable layer {name}"))?;
        }
        let launch = folder("launch", &record.id);
        crate::state::remove_folder(&launch).step(format_args!("remove {}", launch.display()))?;
        if let Some(machine) = &self.machine {
            machine
                .remove(&format!("container/{}", record.id))
                .await
                .step("let PID 1 forget its descriptors")?;
        }
        // Last, since the record lies in it.
        crate::state::remove_folder(&bundle).step(format_args!("remove {}", bundle.display()))
    }
}
