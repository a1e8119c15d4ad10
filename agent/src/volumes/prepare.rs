use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::atomic::{self, Payload};
use super::empty_dir::{self, Medium};
use super::payload::{Gathered, Gatherer, fs_group};
use super::{VolumeError, Volumes, host_path, kinds, ownership, ready_marker, volume_dir};
use crate::downward::PodFacts;

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
        let dir = self.pod_dir(uid(pod));
        let (what, folder) = (format!("create {}", dir.display()), dir.clone());
        let made = self.off_thread(uid(pod), what.clone(), move || {
            make_pod_dirs(&folder).map_err(|error| format!("{what}: {error}"))
        });
        made.await.map_err(VolumeError::Mount)?;
        let mut prepared = PodVolumes::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let made = self.prepare_one(pod, volume, facts, &mut prepared.renew_at).await;
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
        let dir = self.pod_dir(uid(pod));
        let what = format!("look at {}", dir.display());
        let there = self.off_thread(uid(pod), what, move || Ok(dir.is_dir())).await;
        let mut renew_at = None;
        // A pod that has been torn down stays so.
        if !there.map_err(VolumeError::Mount)? {
            return Ok(renew_at);
        }
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if !shows_objects(volume) {
                continue;
            }
            let made = self.prepare_one(pod, volume, facts, &mut renew_at).await;
            made.map_err(|message| VolumeError::SetUp { volume: volume.name.clone(), message })?;
        }
        Ok(renew_at)
    }

    async fn prepare_one(
        &self,
        pod: &Pod,
        volume: &Volume,
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
            self.show(uid(pod), "configmap", &volume.name, gathered.payload, group).await
        } else if let Some(source) = &volume.secret {
            let gathered = gatherer.secret(source).await?;
            self.show(uid(pod), "secret", &volume.name, gathered.payload, group).await
        } else if let Some(source) = &volume.downward_api {
            let payload =
                gatherer.downward(source.items.as_deref().unwrap_or_default(), source.default_mode)?;
            self.show(uid(pod), "downward-api", &volume.name, payload, group).await
        } else if let Some(source) = &volume.projected {
            let Gathered { payload, renew_at: next } = gatherer.projected(&volume.name, source).await?;
            *renew_at = [*renew_at, next].into_iter().flatten().min();
            self.show(uid(pod), "projected", &volume.name, payload, group).await
        } else if let Some(source) = &volume.empty_dir {
            let medium = empty_dir::medium(pod, source, &facts.node_allocatable)?;
            self.make_empty_dir(uid(pod), &volume.name, medium, group).await
        } else if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            let kind = source.type_.clone().unwrap_or_default();
            // What nothing is asked of is not looked at: the runtime mounts it, or says why it cannot.
            if !kind.is_empty() {
                let (what, checked) = (format!("hostPath {}", path.display()), path.clone());
                self.off_thread(uid(pod), what, move || host_path::check(&checked, &kind)).await?;
            }
            Ok(PreparedVolume::Path { path, read_only: false })
        } else {
            let image = volume.image.clone().unwrap_or_default();
            let reference = image.reference.filter(|reference| !reference.is_empty());
            let reference = reference.ok_or("image volume without a reference")?;
            Ok(PreparedVolume::Image { reference, pull_policy: image.pull_policy })
        }
    }

    /// Writes the payload. Only that of ConfigMaps goes to the disk.
    async fn show(
        &self,
        uid: &str,
        plugin: &str,
        volume: &str,
        payload: Payload,
        group: Option<u32>,
    ) -> Result<PreparedVolume, String> {
        let path = volume_dir(&self.pod_dir(uid), plugin, volume);
        let (dir, in_memory) = (path.clone(), plugin != "configmap");
        let write = move || -> std::io::Result<()> {
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
        };
        let what = format!("write {}", path.display());
        self.off_thread(uid, what, move || write().map_err(|error| error.to_string())).await?;
        Ok(PreparedVolume::Path { path, read_only: true })
    }

    async fn make_empty_dir(
        &self,
        uid: &str,
        volume: &str,
        medium: Medium,
        group: Option<u32>,
    ) -> Result<PreparedVolume, String> {
        let pod_dir = self.pod_dir(uid);
        let path = volume_dir(&pod_dir, "empty-dir", volume);
        let ready = ready_marker(&pod_dir, "empty-dir", volume);
        let (what, dir) = (format!("set up {}", path.display()), path.clone());
        self.off_thread(uid, what, move || {
            empty_dir::set_up(&dir, &ready, &medium, group).map_err(|error| error.to_string())
        })
        .await?;
        Ok(PreparedVolume::Path { path, read_only: false })
    }
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
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
