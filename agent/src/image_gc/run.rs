//! Looks at images and their file system every five minutes, and when asked because the disk is full.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use machine::config::NodeAgent;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::plan::{Image, Policy, Records, to_free};
use crate::context::Context;
use crate::cri::Result;
use crate::events::Kind;
use crate::images::{pulled, with_default_tag};
use crate::spec;

const EVERY: Duration = Duration::from_secs(5 * 60);

/// The images' memory; clones share it.
#[derive(Debug, Clone)]
pub struct Collector {
    ctx: Context,
    records: Arc<Mutex<Records>>,
}

/// Runs for as long as the agent lives.
pub async fn run(collector: Collector) {
    let mut told = String::new();
    loop {
        match collector.collect().await {
            Ok(()) => told.clear(),
            Err(text) if text != told => {
                tracing::warn!("image garbage collection: {text}");
                told = text;
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn policy(agent: &NodeAgent) -> Policy {
    Policy {
        high: agent.image_gc_high_threshold_percent.into(),
        low: agent.image_gc_low_threshold_percent.into(),
        min_age: Duration::from_secs(agent.image_minimum_gc_age_seconds.into()),
        max_age: Duration::from_secs(agent.image_maximum_gc_age_seconds.into()),
    }
}

impl Collector {
    #[must_use]
    pub fn new(ctx: Context) -> Self {
        Self { ctx, records: Arc::new(Mutex::new(Records::new(Instant::now()))) }
    }

    async fn collect(&self) -> std::result::Result<(), String> {
        let policy = policy(self.ctx.now().node_agent());
        let mut records = self.records.lock().await;
        let now = self.look(&mut records).await.map_err(|error| error.to_string())?;
        self.remove(records.old(&policy, now)).await?;
        let Some((capacity, available)) = self.space().await? else { return Ok(()) };
        let Some(bytes) = to_free(capacity, available, &policy) else { return Ok(()) };
        let used = 100 - available.min(capacity).saturating_mul(100) / capacity.max(1);
        tracing::info!("{used} % of the images' file system are in use; unused images of {bytes} bytes go");
        let freed = self.remove(records.for_space(bytes, policy.min_age, now)).await?;
        if freed >= bytes {
            return Ok(());
        }
        let message = format!(
            "Insufficient free disk space on the node's image filesystem ({used}% of {capacity} bytes used). Failed to free \
             sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by \
             active images, logs, volumes, or other data."
        );
        self.ctx.events.node(&self.ctx.node_name, Kind::Warning, "FreeDiskSpaceFailed", message.clone());
        Err(message)
    }

    /// Removes all that nothing uses: the disk is full, and pods would have to go otherwise. Answers how many bytes that were.
    ///
    /// # Errors
    /// When the runtime does not answer, or an image cannot be removed.
    pub async fn reclaim(&self) -> std::result::Result<u64, String> {
        let policy = policy(self.ctx.now().node_agent());
        let mut records = self.records.lock().await;
        let now = self.look(&mut records).await.map_err(|error| error.to_string())?;
        self.remove(records.for_space(u64::MAX, policy.min_age, now)).await
    }

    /// Takes note of images and their use.
    async fn look(&self, records: &mut Records) -> Result<Instant> {
        let since = SystemTime::now();
        let images = self.ctx.cri.list_images().await?;
        let mut used: BTreeSet<String> = BTreeSet::new();
        for container in self.ctx.cri.list_containers(None).await? {
            used.insert(container.image_ref);
            used.insert(container.image_id);
            used.extend(container.image.map(|image| image.image));
        }
        for entry in self.ctx.pods.snapshot().values() {
            let volumes = spec::spec(&entry.pod).volumes.iter().flatten();
            used.extend(
                volumes.filter_map(|v| Some(with_default_tag(v.image.as_ref()?.reference.as_deref()?))),
            );
        }
        let is_used = |image: &machine::cri::Image| {
            let mut names = std::iter::once(&image.id).chain(&image.repo_tags).chain(&image.repo_digests);
            names.any(|name| used.contains(name))
        };
        let present = images.iter().map(|image| image.id.as_str()).collect();
        pulled::prune(&pulled::folder(), &present, since);
        let in_use = images.iter().filter(|image| is_used(image)).map(|image| image.id.clone()).collect();
        let images: Vec<Image> = images
            .into_iter()
            .map(|image| Image { id: image.id, size: image.size, pinned: image.pinned })
            .collect();
        let now = Instant::now();
        records.see(&images, &in_use, now);
        Ok(now)
    }

    async fn remove(&self, images: Vec<(String, u64)>) -> std::result::Result<u64, String> {
        let mut freed = 0;
        let mut faults = Vec::new();
        for (id, size) in images {
            match self.ctx.cri.remove_image(&id).await {
                Ok(()) => {
                    tracing::info!("unused image {id} of {size} bytes removed");
                    freed += size;
                }
                Err(error) => faults.push(format!("{id}: {error}")),
            }
        }
        if faults.is_empty() { Ok(freed) } else { Err(faults.join("; ")) }
    }

    /// Capacity and what is left of the file system that holds the images, in bytes.
    async fn space(&self) -> std::result::Result<Option<(u64, u64)>, String> {
        let info = self.ctx.cri.image_fs_info().await.map_err(|error| error.to_string())?;
        let mount = info.image_filesystems.into_iter().find_map(|f| Some(f.fs_id?.mountpoint));
        let Some(mount) = mount else { return Ok(None) };
        let stats = nix::sys::statvfs::statvfs(mount.as_str())
            .map_err(|error| format!("statvfs {mount}: {error}"))?;
        let block = stats.fragment_size();
        Ok(Some((stats.blocks().saturating_mul(block), stats.blocks_available().saturating_mul(block))))
    }
}
