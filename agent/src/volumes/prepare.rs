use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::atomic::{self, Payload};
use super::empty_dir::{self, Medium};
use super::payload::{Gathered, Gatherer, fs_group};
use super::{VolumeError, Volumes, host_path, kinds, ownership, ready_marker, volume_dir};
use crate::env::PodFacts;

/// The volumes of a pod, ready to be mounted into its containers.
#[derive(Debug, Clone, Default)]
pub struct PodVolumes {
    pub volumes: BTreeMap<String, PreparedVolume>,
    /// When [`Volumes::refresh`] is due although no object changed: a token is to be renewed.
    pub renew_at: Option<Timestamp>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreparedVolume {
    /// A path on the node.
    Path {
        path: PathBuf,
        /// Whether containers see it read-only whatever they ask for.
        read_only: bool,
    },
    /// An image that the runtime mounts; pulled by the caller.
    Image { reference: String, pull_policy: Option<String> },
}

impl Volumes {
    /// Makes all volumes of a pod, or what is missing of them.
    ///
    /// # Errors
    /// The first volume that cannot be made, by name; what has been made stays for the next try.
    pub async fn prepare(&self, pod: &Pod, facts: &PodFacts) -> Result<PodVolumes, VolumeError> {
        let dir = self.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
        make_pod_dirs(&dir)
            .map_err(|error| VolumeError::Mount(format!("create {}: {error}", dir.display())))?;
        let mut prepared = PodVolumes::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let made = self.prepare_one(pod, volume, &dir, facts, &mut prepared.renew_at).await;
            let made = made.map_err(|message| VolumeError::SetUp { volume: volume.name.clone(), message })?;
            prepared.volumes.insert(volume.name.clone(), made);
        }
        Ok(prepared)
    }

    /// Rewrites the volumes that show objects, after one of them, or the pod's metadata, changed, or a token became due. Returns
    /// when to come again for a token.
    ///
    /// # Errors
    /// The first volume that cannot be rewritten; it keeps showing what it showed.
    pub async fn refresh(&self, pod: &Pod, facts: &PodFacts) -> Result<Option<Timestamp>, VolumeError> {
        let dir = self.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
        let mut renew_at = None;
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if !shows_objects(volume) || !dir.is_dir() {
                continue;
            }
            let made = self.prepare_one(pod, volume, &dir, facts, &mut renew_at).await;
            made.map_err(|message| VolumeError::SetUp { volume: volume.name.clone(), message })?;
        }
        Ok(renew_at)
    }

    async fn prepare_one(
        &self,
        pod: &Pod,
        volume: &Volume,
        dir: &Path,
        facts: &PodFacts,
        renew_at: &mut Option<Timestamp>,
    ) -> Result<PreparedVolume, String> {
        if let Some(refusal) = kinds::unsupported(volume) {
            return Err(refusal);
        }
        let gatherer = Gatherer {
            pod,
            facts,
            source: &*self.source,
            tokens: &self.tokens,
            certificates: &self.certificates,
        };
        let group = fs_group(pod);
        // Secrets, tokens and what is projected with them never reach the disk.
        if let Some(source) = &volume.config_map {
            let gathered = gatherer.config_map(source).await?;
            show(dir, "configmap", &volume.name, gathered.payload, group, false).await
        } else if let Some(source) = &volume.secret {
            let gathered = gatherer.secret(source).await?;
            show(dir, "secret", &volume.name, gathered.payload, group, true).await
        } else if let Some(source) = &volume.downward_api {
            let payload =
                gatherer.downward(source.items.as_deref().unwrap_or_default(), source.default_mode)?;
            show(dir, "downward-api", &volume.name, payload, group, true).await
        } else if let Some(source) = &volume.projected {
            let Gathered { payload, renew_at: next } = gatherer.projected(&volume.name, source).await?;
            *renew_at = [*renew_at, next].into_iter().flatten().min();
            show(dir, "projected", &volume.name, payload, group, true).await
        } else if let Some(source) = &volume.empty_dir {
            let medium = empty_dir::medium(pod, source, &facts.node_allocatable)?;
            make_empty_dir(dir, &volume.name, medium, group).await
        } else if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
            Ok(PreparedVolume::Path { path, read_only: false })
        } else {
            let image = volume.image.clone().unwrap_or_default();
            let reference = image.reference.filter(|reference| !reference.is_empty());
            let reference = reference.ok_or("image volume without a reference")?;
            Ok(PreparedVolume::Image { reference, pull_policy: image.pull_policy })
        }
    }
}

fn shows_objects(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

fn make_pod_dirs(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Only root may look into the directories of pods; what containers see is mounted from below.
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    for name in ["volumes", "plugins", "containers"] {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir.join(name))?;
    }
    Ok(())
}

/// Writes the payload, on a tmpfs of its own if `in_memory`.
async fn show(
    pod_dir: &Path,
    plugin: &str,
    volume: &str,
    payload: Payload,
    group: Option<u32>,
    in_memory: bool,
) -> Result<PreparedVolume, String> {
    let path = volume_dir(pod_dir, plugin, volume);
    let dir = path.clone();
    blocking(move || {
        std::fs::create_dir_all(&dir)?;
        if in_memory && !empty_dir::is_mount_point(&dir) {
            empty_dir::mount_tmpfs(&dir, None)?;
        }
        set_mode(&dir, 0o777)?;
        atomic::write(&dir, &payload, |dir| match group {
            Some(group) => ownership::set_group(dir, group, true),
            None => Ok(()),
        })?;
        Ok(())
    })
    .await?;
    Ok(PreparedVolume::Path { path, read_only: true })
}

/// Sets the mode of a fresh directory; one with fsGroup's bits on top stays as it is.
fn set_mode(dir: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let current = std::fs::symlink_metadata(dir)?.permissions().mode() & 0o777;
    if current == mode {
        Ok(())
    } else {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
    }
}

async fn make_empty_dir(
    pod_dir: &Path,
    volume: &str,
    medium: Medium,
    group: Option<u32>,
) -> Result<PreparedVolume, String> {
    let path = volume_dir(pod_dir, "empty-dir", volume);
    let ready = ready_marker(pod_dir, "empty-dir", volume);
    let dir = path.clone();
    blocking(move || empty_dir::set_up(&dir, &ready, &medium, group)).await?;
    Ok(PreparedVolume::Path { path, read_only: false })
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}
