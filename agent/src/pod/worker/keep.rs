//! A static pod's status outlives the agent in /run, since the API server may not be there to ask.
use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use node_kit::files::{Durability, make_folder, replace};

use super::{Desired, Worker};
use crate::pod::convert;
use crate::pods::Source;
use crate::spec;

/// Where the status of static pods is kept while the machine is up.
const MEMORY: &str = "/run/pintle/agent";

pub(super) fn memory_of(uid: &str) -> std::path::PathBuf {
    std::path::Path::new(MEMORY).join(format!("{}.status", uid.replace('/', "_")))
}

pub(super) fn remembered(uid: &str) -> Option<PodStatus> {
    serde_json::from_slice(&std::fs::read(memory_of(uid)).ok()?).ok()
}

/// What is still known of a pod's containers when its task begins: how often they were started, as their logs tell, and how they ended, as
/// the status tells. The runtime forgets both when the machine boots.
pub(super) fn recall(pod: &Pod, status: &PodStatus) -> (BTreeMap<String, u32>, BTreeMap<String, i32>) {
    let logs = Path::new(&convert::log_directory(pod)).to_owned();
    let spec = spec::spec(pod);
    let names = spec::init_containers(pod).iter().chain(&spec.containers).map(|c| &c.name);
    let restarts = names.filter_map(|name| Some((name.clone(), last_restart(&logs.join(name))?))).collect();
    let ended = status.container_statuses.iter().flatten();
    let ended =
        ended.filter_map(|c| Some((c.name.clone(), c.state.as_ref()?.terminated.as_ref()?.exit_code)));
    (restarts, ended.collect())
}

/// The highest N of the files `N.log`, `N.log.<time>` and `N.log.<time>.gz` in a container's log folder.
fn last_restart(folder: &Path) -> Option<u32> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    files.filter_map(|file| file.file_name().to_str()?.split_once(".log")?.0.parse().ok()).max()
}

impl Worker {
    /// A static pod's status outlives this agent in /run, since the API server may not be there to ask.
    pub(super) fn remember_static(&mut self, desired: &Desired) {
        if desired.source != Source::File || self.remembered.as_ref() == Some(&self.status) {
            return;
        }
        self.remembered = Some(self.status.clone());
        let path = memory_of(&self.uid);
        let write = || -> std::io::Result<()> {
            make_folder(MEMORY.as_ref(), 0o755)?;
            Ok(replace(&path, &serde_json::to_vec(&self.status)?, 0o600, Durability::Process)?)
        };
        if let Err(error) = write() {
            tracing::debug!("write {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_goes_on_from_the_logs() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_restart(&folder.path().join("none")), None);
        for name in ["0.log", "2.log.20260101-000000.gz", "1.log", "notes.txt", "x9.log"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(last_restart(folder.path()), Some(2));
    }
}
