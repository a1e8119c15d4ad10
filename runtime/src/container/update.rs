//! Changing a container's limits in place.
use machine::cri;
use tonic::Status;

use crate::cgroup;
use crate::runtime::{Container, Runtime, internal};
use crate::state::Phase;

impl Runtime {
    /// Changes the limits of a container, of one that runs at once.
    ///
    /// # Errors
    /// `FailedPrecondition` for one that has ended; `Internal` with the limit that the kernel refuses.
    pub(crate) async fn update_container(
        &self,
        container: &Container,
        resources: cri::LinuxContainerResources,
        annotations: std::collections::HashMap<String, String>,
    ) -> Result<(), Status> {
        let _busy = container.busy.lock().await;
        let record = container.record();
        if matches!(record.phase, Phase::Exited | Phase::Removing) {
            return Err(Status::failed_precondition(format!("container {} has ended", record.id)));
        }
        if record.phase == Phase::Running {
            let changes = cgroup::settings(&resources, false);
            container
                .cgroup()
                .write(&changes)
                .map_err(|error| internal("update the container's limits", &error))?;
        }
        container.update(|record| {
            record.config.annotations.extend(annotations);
            let current = record.config.linux.get_or_insert_default().resources.get_or_insert_default();
            merge(current, resources);
        })?;
        Ok(())
    }
}

/// What an update leaves out stays as it was.
fn merge(current: &mut cri::LinuxContainerResources, update: cri::LinuxContainerResources) {
    let number = |current: &mut i64, update: i64| {
        if update != 0 {
            *current = update;
        }
    };
    number(&mut current.cpu_period, update.cpu_period);
    number(&mut current.cpu_quota, update.cpu_quota);
    number(&mut current.cpu_shares, update.cpu_shares);
    number(&mut current.memory_limit_in_bytes, update.memory_limit_in_bytes);
    number(&mut current.memory_swap_limit_in_bytes, update.memory_swap_limit_in_bytes);
    number(&mut current.oom_score_adj, update.oom_score_adj);
    if !update.cpuset_cpus.is_empty() {
        current.cpuset_cpus = update.cpuset_cpus;
    }
    if !update.cpuset_mems.is_empty() {
        current.cpuset_mems = update.cpuset_mems;
    }
    if !update.hugepage_limits.is_empty() {
        current.hugepage_limits = update.hugepage_limits;
    }
    current.unified.extend(update.unified);
}
