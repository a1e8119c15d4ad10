//! Pod volumes in the kubelet's layout below `/var/lib/kubelet/pods/<uid>`: made before containers start, kept equal to the objects
//! they show, removed when the pod is gone.
//!
//! Everything here may be repeated: after a restart of the agent, [`Volumes::prepare`] finds what is there and makes the rest.
//!
//! | file | what |
//! |---|---|
//! | `source` | how objects and tokens are read (a trait) |
//! | `kinds` | which kind a volume is, and which are refused |
//! | `payload` | files of configMap, secret, downwardAPI and projected volumes |
//! | `bundles`, `certificates`, `tokens` | trust anchors, keys and tokens that projected volumes show |
//! | `atomic` | writes them so that a reader sees the old or the new set |
//! | `empty_dir`, `host_path` | the other kinds |
//! | `ownership` | fsGroup |
//! | `subpath` | a path beneath a volume, opened without following links out of it |
//! | `mounts` | the mounts of one container |
//! | `hosts` | `/etc/hosts` |
//! | `teardown` | the end |
mod atomic;
mod bundles;
mod certificates;
mod empty_dir;
mod host_path;
mod hosts;
mod id_ranges;
mod kinds;
mod mount_table;
mod mounts;
mod ownership;
mod payload;
mod prepare;
mod source;
mod subpath;
mod teardown;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use bundles::TrustBundle;
pub use hosts::hosts_file;
pub use id_ranges::IDS;
pub use kinds::{ObjectRefs, object_refs, shows_other_fields, shows_trust_bundles};
pub use mounts::{ContainerMounts, MountContext};
pub use prepare::{PodVolumes, PreparedVolume};
pub use source::{Answer, CertificateRequest, ServiceAccountToken, Source, SourceError, TokenRequest};

use certificates::Certificates;
use tokens::TokenCache;

use crate::calls::Calls;

/// A volume that could not be made, shown or removed. The text is what the user reads in the FailedMount event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    SetUp { volume: String, message: String },
    #[error("{0}")]
    Mount(String),
    #[error("volumes of pod {uid}: {message}")]
    TearDown { uid: String, message: String },
}

/// The volumes of all pods on this node; clones share the token cache.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
    source: Arc<dyn Source>,
    tokens: Arc<TokenCache>,
    certificates: Arc<Certificates>,
    calls: Calls,
}

impl Volumes {
    /// `root` is the kubelet's directory, `/var/lib/kubelet` on a node.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, source: Arc<dyn Source>) -> Self {
        Self {
            root: root.into(),
            source,
            tokens: Arc::default(),
            certificates: Arc::default(),
            calls: Calls::new(CALLS),
        }
    }

    /// The directory of one pod.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Runs `work` on a thread of its own, since the files it is about may be on a file system that never
    /// answers.
    async fn off_thread<T: Send + 'static>(
        &self,
        uid: &str,
        what: String,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.calls.run(uid, what, SET_UP_WITHIN, work).await.map_err(|hung| hung.to_string())?
    }

    /// The uids of pods that have a directory.
    #[must_use]
    pub fn pods_on_disk(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Threads of all pods in calls into their file systems.
const CALLS: usize = 256;
/// How long making or looking at one volume may take.
const SET_UP_WITHIN: Duration = Duration::from_secs(30);

/// Where a volume of a plugin lies.
fn volume_dir(pod_dir: &Path, plugin: &str, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

/// Where a plugin notes that a volume is complete.
fn ready_marker(pod_dir: &Path, plugin: &str, volume: &str) -> PathBuf {
    pod_dir.join("plugins").join(format!("kubernetes.io~{plugin}")).join(volume).join("ready")
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
