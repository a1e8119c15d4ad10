//! Ending and removing containers.
use std::time::Duration;

use machine::cri;
use tonic::Status;

use crate::cgroup::KILL_DEADLINE;
use crate::pod;
use crate::runtime::{Container, Runtime, folder, internal, lock};
use crate::state::{ContainerRecord, Phase};

impl Runtime {
    /// Ends a container: its stop signal, after `grace` everything of it is killed.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it cannot even be killed.
    pub async fn stop_container(&self, container: &Container, grace: Duration) -> Result<(), Status> {
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
                return waited.map(drop).map_err(|_| {
                    Status::deadline_exceeded(format!("container {} is still being started", record.id))
                });
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
        container.cgroup().kill().map_err(|error| internal("kill the container", &error))?;
        match tokio::time::timeout(KILL_DEADLINE, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "container {} was killed but has not ended within 30 s",
                record.id
            ))),
        }
    }

    /// Removes a container, ending it first.
    ///
    /// # Errors
    /// `Internal` with what could not be removed; a further call tries again.
    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container(&container, Duration::ZERO).await?;
        let _busy = container.busy.lock().await;
        // It goes, whether or not there is room to write that down: what is on file is removed with it.
        let (record, _) = container.declare(|record| record.phase = Phase::Removing);
        self.erase(&record).await?;
        lock(&self.containers).remove(&record.id);
        self.publish(&container, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Removes every trace of a container that does not run.
    pub(crate) async fn erase(&self, record: &ContainerRecord) -> Result<(), Status> {
        let failed =
            |error: &dyn std::fmt::Display| internal(&format!("remove container {}", record.id), error);
        crate::cgroup::Cgroup::new(&record.cgroup_parent, &record.id)
            .remove(KILL_DEADLINE)
            .await
            .map_err(|error| failed(&error))?;
        let bundle = folder("containers", &record.id);
        super::mounts::undo(&bundle).map_err(|error| failed(&error))?;
        for name in record.volumes.iter().chain([&record.id]) {
            self.images.remove(name).await.map_err(|error| failed(&images::chain(&error)))?;
        }
        pod::remove_folder(&folder("launch", &record.id)).map_err(|error| failed(&error))?;
        if let Some(machine) = &self.machine {
            machine.remove(&format!("container/{}", record.id)).await.map_err(|error| failed(&error))?;
        }
        // Last, since the record lies in it.
        pod::remove_folder(&bundle).map_err(|error| failed(&error))
    }
}
