//! Resizing a running pod: its containers and its cgroup, step by step in the order that never leaves a container more than its pod has.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use machine::cri::UpdateContainerResourcesRequest;

use super::decide::Failure;
use super::start::{Scene, failure};
use crate::allocation::Size;
use crate::cgroup::{self, CgroupConfig};
use crate::errors::chain;

/// The wait after a resize that did not succeed.
const AGAIN: i64 = 10 * crate::backoff::SECOND;

/// One container to resize.
#[derive(Debug, Clone)]
pub struct Change {
    pub id: String,
    pub container: Container,
    pub old: Size,
    pub new: Size,
}

/// What is in force after a resize, whole or in part.
#[derive(Debug, Default)]
pub struct Resized {
    pub containers: BTreeMap<String, Size>,
    pub pod: Option<Size>,
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Memory,
    Cpu,
}

/// The container as it is in the middle of a resize: `size` in place of what it asks for.
fn between(container: &Container, size: &Size) -> Container {
    let own = Size::of(container.resources.as_ref());
    let resources = Some(container.resources.clone().unwrap_or_default());
    Container { resources: size.over(resources.as_ref(), &own), ..container.clone() }
}

impl Scene {
    /// Resizes the running containers and the pod's cgroup: memory first, then CPU.
    pub async fn resize(&self, changes: Vec<Change>) -> Resized {
        let mut done = Resized::default();
        let mut sizes: BTreeMap<String, Size> =
            changes.iter().map(|c| (c.container.name.clone(), c.old)).collect();
        let result = async {
            self.refuse_below_usage(&changes).await?;
            self.resize_one(Resource::Memory, &changes, &mut sizes).await?;
            self.resize_one(Resource::Cpu, &changes, &mut sizes).await
        }
        .await;
        done.containers = sizes;
        match result {
            Ok(()) => done.pod = Some(Size::of_pod(&self.pod)),
            Err(message) => done.failure = Some(failure("Error", message, AGAIN)),
        }
        done
    }

    async fn resize_one(
        &self,
        resource: Resource,
        changes: &[Change],
        sizes: &mut BTreeMap<String, Size>,
    ) -> Result<(), String> {
        let cgroups = &self.parts.cgroups;
        let wanted = cgroup::pod_config(&self.pod, cgroups.node());
        let now = cgroups.read_pod(&self.pod).map_err(|error| chain(&error))?;
        let [limit, request] = halves(resource, &wanted);
        let grows = |part: &CgroupConfig| part.exceeds(&now);
        let set = |part: &CgroupConfig| cgroups.write_pod(&self.pod, part).map_err(|error| chain(&error));
        for part in [&limit, &request].into_iter().filter(|part| grows(part)) {
            set(part)?;
        }
        for change in in_order(resource, changes) {
            let before = sizes.get(&change.container.name).copied().unwrap_or(change.old);
            let after = match resource {
                Resource::Memory => Size {
                    memory_request: change.new.memory_request,
                    memory_limit: change.new.memory_limit,
                    ..before
                },
                Resource::Cpu => {
                    Size { cpu_request: change.new.cpu_request, cpu_limit: change.new.cpu_limit, ..before }
                }
            };
            if before == after {
                continue;
            }
            let container = between(&change.container, &after);
            let request = UpdateContainerResourcesRequest {
                container_id: change.id.clone(),
                linux: Some(cgroup::container_resources(&self.pod, &container, cgroups.node())),
                ..Default::default()
            };
            let updated = self.ctx.cri.update_container_resources(request).await;
            updated.map_err(|error| format!("container {}: {}", change.container.name, error.message))?;
            sizes.insert(change.container.name.clone(), after);
        }
        for part in [&request, &limit].into_iter().filter(|part| !grows(part)) {
            set(part)?;
        }
        Ok(())
    }

    /// A limit below what is in use would end the container: such a resize waits until less is in use.
    async fn refuse_below_usage(&self, changes: &[Change]) -> Result<(), String> {
        let cgroups = &self.parts.cgroups;
        let less = |c: &&Change| {
            c.new.memory_limit != 0 && (c.old.memory_limit == 0 || c.new.memory_limit < c.old.memory_limit)
        };
        let mut faults = Vec::new();
        let now = cgroups.read_pod(&self.pod).map_err(|error| chain(&error))?;
        let limit = cgroup::pod_config(&self.pod, cgroups.node()).memory_max.filter(|limit| *limit > 0);
        if let Some(limit) = limit.filter(|limit| now.memory_max.is_none_or(|now| now == 0 || *limit < now)) {
            let used = cgroups.pod_memory(&self.pod).map_err(|error| chain(&error))?;
            if used >= limit {
                faults.push(format!(
                    "attempting to set pod memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        if changes.iter().any(|c| less(&c)) {
            let stats = self.ctx.cri.list_container_stats().await.map_err(|error| error.message)?;
            for change in changes.iter().filter(less) {
                let stats = stats.iter().find(|s| s.attributes.as_ref().is_some_and(|a| a.id == change.id));
                let used = stats.and_then(|s| s.memory.as_ref()?.usage_bytes).map_or(0, |used| used.value);
                let (name, limit) = (&change.container.name, change.new.memory_limit);
                if i64::try_from(used).unwrap_or(i64::MAX) >= limit {
                    let fault = "attempting to set container";
                    faults.push(format!(
                        "{fault} {name:?} memory limit ({limit}) below current usage ({used})"
                    ));
                }
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(format!("cannot decrease memory limits: {}", faults.join("; ")))
    }
}

/// The limit and the request of one resource, as parts of a pod's cgroup. A request of memory is written nowhere.
fn halves(resource: Resource, wanted: &CgroupConfig) -> [CgroupConfig; 2] {
    match resource {
        Resource::Memory => [
            CgroupConfig { memory_max: wanted.memory_max, ..CgroupConfig::default() },
            CgroupConfig::default(),
        ],
        Resource::Cpu => [
            CgroupConfig { cpu_quota: wanted.cpu_quota, ..CgroupConfig::default() },
            CgroupConfig { cpu_shares: wanted.cpu_shares, ..CgroupConfig::default() },
        ],
    }
}

/// Containers that shrink come first.
fn in_order(resource: Resource, changes: &[Change]) -> Vec<&Change> {
    let mut ordered: Vec<&Change> = changes.iter().collect();
    ordered.sort_by_key(|c| match resource {
        Resource::Memory => {
            (c.new.memory_limit, c.new.memory_request) >= (c.old.memory_limit, c.old.memory_request)
        }
        Resource::Cpu => (c.new.cpu_limit, c.new.cpu_request) >= (c.old.cpu_limit, c.old.cpu_request),
    });
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shrinks_makes_room_for_who_grows() {
        let change = |name: &str, old: i64, new: i64| Change {
            id: name.into(),
            container: Container { name: name.into(), ..Default::default() },
            old: Size { memory_limit: old, ..Size::default() },
            new: Size { memory_limit: new, ..Size::default() },
        };
        let changes = [change("grows", 1, 2), change("shrinks", 2, 1)];
        let names: Vec<_> = in_order(Resource::Memory, &changes).iter().map(|c| c.id.as_str()).collect();
        assert_eq!(names, ["shrinks", "grows"]);
    }

    #[test]
    fn a_part_grows_when_its_limit_does() {
        let config = |quota, memory| CgroupConfig {
            cpu_quota: Some(quota),
            cpu_shares: Some(100),
            memory_max: Some(memory),
            ..CgroupConfig::default()
        };
        let [limit, _] = halves(Resource::Memory, &config(1, 200));
        assert!(limit.exceeds(&config(9, 100)));
        assert!(!limit.exceeds(&config(0, 300)));
        let [limit, request] = halves(Resource::Cpu, &config(0, 0));
        assert!(limit.exceeds(&config(5000, 0)), "no limit is the most");
        assert!(!request.exceeds(&config(0, 0)));
    }
}
