//! Changing a container's limits in place.
use machine::cri;

use crate::cgroup;
use crate::errors::Step;
use crate::errors::UpdateError;
use crate::runtime::{Container, Runtime};
use crate::state::Phase;

impl Runtime {
    /// Changes the limits of a container, of one that runs at once.
    ///
    /// # Errors
    /// For one that has ended; with the limit that the kernel refuses.
    pub async fn update_container(
        &self,
        container: &Container,
        resources: cri::LinuxContainerResources,
        annotations: std::collections::HashMap<String, String>,
    ) -> Result<(), UpdateError> {
        let _busy = container.busy.lock().await;
        let record = container.record();
        if matches!(record.phase, Phase::Exited | Phase::Removing) {
            return Err(UpdateError::Ended(record.id));
        }
        if record.phase == Phase::Running {
            let changes = cgroup::settings(&resources, false);
            container
                .cgroup()
                .write(&changes)
                .step(format_args!("update the limits of the container {}", record.id))?;
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
