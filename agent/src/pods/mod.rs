//! All pods of this node, as one watched snapshot. The pod tasks write their own entries; everything else reads.
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tokio::sync::watch;

/// Where a pod comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The API server.
    Api,
    /// A static manifest or a StaticPod document of the machine config.
    File,
}

/// A pod of this node as it is known now.
#[derive(Debug, Clone, PartialEq)]
pub struct PodEntry {
    /// The pod with its status as this agent last computed it; what `/pods` shows.
    pub pod: Arc<Pod>,
    pub source: Source,
    /// CRI id of the current sandbox.
    pub sandbox: Option<String>,
    /// CRI id of the newest container by name, init and ephemeral ones included.
    pub containers: BTreeMap<String, String>,
    /// It was told to end, and nothing of it runs.
    pub stopped: bool,
    /// The API server has this status.
    pub told: bool,
}

/// One pod as the server needs it.
#[derive(Debug, Clone)]
pub struct ServedPod {
    pub pod: Arc<Pod>,
    /// CRI id of its sandbox, if it has one.
    pub sandbox: Option<String>,
    /// CRI id of the newest instance of each container.
    pub containers: Vec<(String, String)>,
}

impl PodEntry {
    #[must_use]
    pub fn uid(&self) -> String {
        self.pod.uid().unwrap_or_default()
    }
}

/// Entries by pod uid.
pub type Snapshot = Arc<BTreeMap<String, Arc<PodEntry>>>;

/// The snapshot of all pods; clones share it.
#[derive(Debug, Clone, Default)]
pub struct PodStore {
    current: watch::Sender<Snapshot>,
}

impl PodStore {
    /// All pods as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.current.borrow().clone()
    }

    /// A receiver that changes with every pod.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.current.subscribe()
    }

    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<PodEntry>> {
        self.current.borrow().get(uid).cloned()
    }

    /// The pod with this name. A static pod is found by its own uid and by its mirror's name alike.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        let is_it = |entry: &&Arc<PodEntry>| {
            entry.pod.metadata.name.as_deref() == Some(name)
                && entry.pod.metadata.namespace.as_deref() == Some(namespace)
        };
        self.current.borrow().values().find(is_it).cloned()
    }

    pub(crate) fn put(&self, entry: PodEntry) {
        let uid = entry.uid();
        self.current.send_if_modified(|pods| {
            if pods.get(&uid).is_some_and(|old| **old == entry) {
                return false;
            }
            Arc::make_mut(pods).insert(uid, Arc::new(entry));
            true
        });
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.current
            .send_if_modified(|pods| pods.contains_key(uid) && Arc::make_mut(pods).remove(uid).is_some());
    }
}
