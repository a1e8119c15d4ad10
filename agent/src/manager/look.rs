//! A look at all that the runtime and the disk have, away from the manager's loop.
use std::path::PathBuf;

use crate::context::Context;
use crate::dead_logs;
use crate::parts::Parts;

/// What the runtime and the disk have of pods.
pub(super) struct Looked {
    pub(super) sandboxes: Vec<machine::cri::PodSandbox>,
    pub(super) containers: Vec<machine::cri::Container>,
    /// The uids of pods that have a folder.
    pub(super) folders: Vec<String>,
    /// Log folders with their pods' uids.
    pub(super) log_folders: Vec<(String, PathBuf)>,
}

pub(super) async fn look(ctx: Context, parts: Parts) -> Option<Looked> {
    // First the disk: what a pod makes while the runtime is asked is nobody's business here.
    let on_disk =
        move || (parts.volumes.pods_on_disk(), dead_logs::folders(machine::paths::POD_LOGS.as_ref()));
    let (folders, log_folders) = tokio::task::spawn_blocking(on_disk).await.ok()?;
    let sandboxes = ctx.cri.list_pod_sandboxes(None).await.ok()?;
    let containers = ctx.cri.list_containers(None).await.ok()?;
    Some(Looked { sandboxes, containers, folders, log_folders })
}
