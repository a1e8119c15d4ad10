//! Container logs: the running file is put aside when it is too large, and only so many are kept.
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::cgroup::Amount;
use crate::context::Context;
use crate::pod::convert::log_directory;

const EVERY: Duration = Duration::from_secs(10);

/// Looks at every running container's log for as long as the agent lives.
pub async fn run(ctx: Context) {
    loop {
        tokio::time::sleep(EVERY).await;
        let settings = ctx.now();
        let agent = settings.node_agent();
        let Ok(limit) = Amount::parse(&agent.container_log_max_size) else { continue };
        let limit = limit.value().unsigned_abs();
        let files = agent.container_log_max_files.max(2) as usize;
        for entry in ctx.pods.snapshot().values() {
            let Some(status) = &entry.pod.status else { continue };
            let all = [
                &status.container_statuses,
                &status.init_container_statuses,
                &status.ephemeral_container_statuses,
            ];
            for container in all.into_iter().flatten().flatten().filter(|c| is_running(c)) {
                let Some(id) = entry.containers.get(&container.name) else { continue };
                let folder = Path::new(&log_directory(&entry.pod)).join(&container.name);
                let log = folder.join(format!("{}.log", container.restart_count));
                if tokio::fs::metadata(&log).await.is_ok_and(|m| m.len() > limit)
                    && let Err(error) = rotate(&ctx, id, &log, files).await
                {
                    tracing::warn!("rotate {}: {error:#}", log.display());
                }
            }
        }
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

async fn rotate(ctx: &Context, id: &str, log: &Path, files: usize) -> anyhow::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let aside = PathBuf::from(format!("{}.{stamp}", log.display()));
    tokio::fs::rename(log, &aside).await?;
    if let Err(error) = ctx.cri.reopen_container_log(id).await {
        // The container goes on writing to the old file: give it its name back.
        tokio::fs::rename(&aside, log).await?;
        return Err(error.into());
    }
    let mut old = Vec::new();
    let mut entries = tokio::fs::read_dir(log.parent().unwrap_or(Path::new("/"))).await?;
    while let Some(entry) = entries.next_entry().await? {
        old.push(entry.file_name().to_string_lossy().into_owned());
    }
    let name = log.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for gone in surplus(old, &name, files) {
        tokio::fs::remove_file(log.with_file_name(gone)).await?;
    }
    Ok(())
}

/// The oldest files put aside, so that `files` remain with the running one.
fn surplus(names: Vec<String>, log: &str, files: usize) -> Vec<String> {
    let prefix = format!("{log}.");
    let mut aside: Vec<String> = names.into_iter().filter(|name| name.starts_with(&prefix)).collect();
    aside.sort();
    let keep = files.saturating_sub(1);
    aside.truncate(aside.len().saturating_sub(keep));
    aside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let names =
            ["0.log", "0.log.20260101-000003", "0.log.20260101-000001", "0.log.20260101-000002", "1.log.2"];
        let names = names.map(str::to_owned).to_vec();
        assert_eq!(surplus(names.clone(), "0.log", 3), ["0.log.20260101-000001"]);
        assert!(surplus(names, "0.log", 5).is_empty());
    }
}
