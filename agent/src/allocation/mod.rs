//! What each pod was granted of the node, and what of it is in force (pkg/kubelet/allocation): the resources in a pod's spec are a wish that
//! the node grants at admission and at each resize. Both are kept on disk, one small file for each pod, so that a restart of the agent
//! neither shrinks nor grows anything.
mod resize;
mod size;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

pub use resize::{Wish, message, sort};
pub use size::{Size, resizable};

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
        self.pod = crate::pod::spec::spec(pod).resources.clone();
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
            || !same(crate::pod::spec::spec(pod).resources.as_ref(), self.pod.as_ref());
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

/// All pods' allocations; clones share them.
#[derive(Debug, Clone)]
pub struct Allocations {
    folder: PathBuf,
    known: Arc<Mutex<HashMap<String, Allocation>>>,
}

impl Allocations {
    /// Kept below `folder`.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), known: Arc::default() }
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(uid.replace('/', "_"))
    }

    /// The pod's allocation; `None` before its admission.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Allocation> {
        let mut known = self.known.lock().ok()?;
        if let Some(allocation) = known.get(uid) {
            return Some(allocation.clone());
        }
        let allocation: Allocation = serde_json::from_slice(&std::fs::read(self.path(uid)).ok()?).ok()?;
        known.insert(uid.to_owned(), allocation.clone());
        Some(allocation)
    }

    /// Remembers a pod's allocation, on disk too. A disk that takes nothing costs the memory across a restart, not the pod.
    pub fn update(&self, uid: &str, change: impl FnOnce(Allocation) -> Allocation) {
        let before = self.get(uid);
        let after = change(before.clone().unwrap_or_default());
        if before.as_ref() == Some(&after) {
            return;
        }
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            let next = self.folder.join(".next");
            std::fs::write(&next, serde_json::to_vec(&after)?)?;
            std::fs::rename(&next, self.path(uid))
        };
        if let Err(error) = write() {
            tracing::warn!("keep the resources of pod {uid} in {}: {error}", self.folder.display());
        }
        if let Ok(mut known) = self.known.lock() {
            known.insert(uid.to_owned(), after);
        }
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        if let Ok(mut known) = self.known.lock() {
            known.remove(uid);
        }
        let _ = std::fs::remove_file(self.path(uid));
    }

    /// Forgets pods that are not among these; called when all pods of the node are known.
    pub fn keep_only(&self, is_there: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if let Some(uid) = entry.file_name().to_str().filter(|uid| !is_there(uid)) {
                self.forget(uid);
            }
        }
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
    fn a_wish_is_not_a_grant_and_grants_outlive_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let allocations = Allocations::new(folder.path());
        assert_eq!(allocations.get("u"), None);
        allocations.update("u", |a| a.grant(&pod("100m")));
        let later = Allocations::new(folder.path());
        let granted = later.get("u").unwrap().apply(&pod("200m"));
        assert_eq!(granted, pod("100m"));
        later.update("u", |a| a.grant(&pod("200m")));
        let wish = pod("0.2");
        assert!(
            Arc::ptr_eq(&later.get("u").unwrap().apply(&wish), &wish),
            "the same amount, otherwise written"
        );
        later.keep_only(|_| false);
        assert_eq!(Allocations::new(folder.path()).get("u"), None);
    }
}
