//! What each pod was granted of the node, and what of it is in force (pkg/kubelet/allocation): the resources in a pod's spec are a wish that
//! the node grants at admission and at each resize. Both are kept on disk, one small file for each pod, so that a restart of the agent
//! neither shrinks nor grows anything.
mod resize;
mod size;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

pub use resize::{Wish, message, sort};
pub use size::{Size, resizable};
pub use store::Allocations;

/// The state of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    /// Granted, by container.
    pub allocated: BTreeMap<String, ResourceRequirements>,
    /// Granted to the pod as a whole, where its spec has such resources.
    pub pod: Option<ResourceRequirements>,
    /// The spec's generation that was granted.
    pub generation: Option<i64>,
    /// In force, by container.
    pub actuated: BTreeMap<String, Size>,
    /// In force for the pod's cgroup.
    pub actuated_pod: Option<Size>,
}

impl Allocation {
    /// Grants what the spec asks for; what is in force stays.
    #[must_use]
    pub fn grant(mut self, pod: &Pod) -> Self {
        let resources = |c: &k8s_openapi::api::core::v1::Container| c.resources.clone().unwrap_or_default();
        self.allocated = resizable(pod).map(|c| (c.name.clone(), resources(c))).collect();
        self.pod = crate::spec::spec(pod).resources.clone();
        self.generation = pod.metadata.generation;
        self
    }

    /// The pod with what was granted in place of what its spec asks for.
    #[must_use]
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let same = |wanted: Option<&ResourceRequirements>, granted: Option<&ResourceRequirements>| {
            Size::of(wanted) == Size::of(granted)
        };
        let differs = resizable(pod)
            .any(|c| self.allocated.get(&c.name).is_some_and(|a| !same(c.resources.as_ref(), Some(a))))
            || !same(crate::spec::spec(pod).resources.as_ref(), self.pod.as_ref());
        if !differs {
            return pod.clone();
        }
        let mut pod = (**pod).clone();
        if let Some(spec) = pod.spec.as_mut() {
            spec.resources.clone_from(&self.pod);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(granted) = self.allocated.get(&container.name) {
                    container.resources = Some(granted.clone());
                }
            }
        }
        Arc::new(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn a_wish_is_not_a_grant() {
        let granted = Allocation::default().grant(&pod("100m"));
        assert_eq!(granted.apply(&pod("200m")), pod("100m"));
        let (granted, wish) = (granted.grant(&pod("200m")), pod("0.2"));
        assert!(Arc::ptr_eq(&granted.apply(&wish), &wish), "the same amount, otherwise written");
    }
}
