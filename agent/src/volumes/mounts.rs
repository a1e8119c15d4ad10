//! The mounts of one container (pkg/kubelet/kubelet_pods.go makeMounts).
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use machine::cri::{ImageSpec, Mount, MountPropagation};

use super::prepare::{PodVolumes, PreparedVolume, uid};
use super::{VolumeError, Volumes, hosts_file, subpath};
use crate::downward::{Environment, expand_strict};
use crate::shared_file;

const ETC_HOSTS: &str = "/etc/hosts";

/// What the mounts of a container depend on beside its spec.
#[derive(Debug, Clone, Copy)]
pub struct MountContext<'a> {
    pub volumes: &'a PodVolumes,
    pub environment: &'a Environment,
    /// The pod's addresses; without any, a pod that is not on the host network gets no hosts file.
    pub pod_ips: &'a [String],
    pub hostname: &'a str,
    /// The domain of the pod's FQDN, or "".
    pub domain: &'a str,
    /// The image of each image volume as the runtime knows it, by volume name.
    pub images: &'a BTreeMap<String, ImageSpec>,
    /// Counts the instances of this container, from 0: each has a termination log of its own.
    pub attempt: u32,
    /// Whether the pod's runtime handler can mount read-only recursively.
    pub recursive_read_only: bool,
}

/// What to hand to CRI.
#[derive(Debug, Clone, Default)]
pub struct ContainerMounts {
    pub mounts: Vec<Mount>,
    /// Where the container's termination message appears on the node.
    pub termination_log: Option<PathBuf>,
}

impl Volumes {
    /// The mounts of one container. Makes the bind mounts of subPaths, the hosts file and the termination log.
    ///
    /// # Errors
    /// When a mount cannot be made; the text is the container's waiting message (CreateContainerConfigError).
    pub async fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        context: MountContext<'_>,
    ) -> Result<ContainerMounts, VolumeError> {
        let dir = self.pod_dir(uid(pod));
        let mut mounts = Vec::new();
        let mut own_hosts = false;
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            own_hosts |= mount.mount_path == ETC_HOSTS;
            let made = self.volume_mount(pod, container, index, mount, context).await;
            mounts.push(made.map_err(VolumeError::Mount)?);
        }
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if !own_hosts && (host_network || !context.pod_ips.is_empty()) {
            mounts.push(self.hosts_mount(pod, host_network, context).await?);
        }
        let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        let mut termination_log = None;
        if !path.is_empty() {
            let (name, attempt) = (container.name.clone(), context.attempt);
            let what = format!("create {}", dir.join("containers").join(&name).display());
            let make = move || termination_log_file(&dir, &name, attempt);
            let file = self.off_thread(uid(pod), what, make).await.map_err(VolumeError::Mount)?;
            mounts.push(private(path.to_owned(), file.display().to_string()));
            termination_log = Some(file);
        }
        Ok(ContainerMounts { mounts, termination_log })
    }

    async fn volume_mount(
        &self,
        pod: &Pod,
        container: &Container,
        index: usize,
        mount: &VolumeMount,
        context: MountContext<'_>,
    ) -> Result<Mount, String> {
        let volume = context.volumes.volumes.get(&mount.name);
        let volume = volume.ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name)
        })?;
        let subpath = subpath_of(mount, context.environment)?;
        let read_only = mount.read_only.unwrap_or(false);
        let mut result = Mount {
            container_path: absolute(&mount.mount_path),
            propagation: propagation(mount)?.into(),
            recursive_read_only: recursive_read_only(mount, context.recursive_read_only)?,
            readonly: read_only,
            ..Mount::default()
        };
        match volume {
            PreparedVolume::Image { reference, .. } => {
                let image = context.images.get(&mount.name);
                let image = image
                    .ok_or_else(|| format!("image volume {:?}: {reference} is not pulled yet", mount.name))?;
                result.image = Some(image.clone());
                result.image_sub_path = subpath.unwrap_or_default();
                result.readonly = true;
            }
            PreparedVolume::Path { path, read_only: always } => {
                result.readonly |= *always;
                let source = match subpath {
                    None => path.clone(),
                    Some(subpath) => {
                        let target = self.pod_dir(uid(pod)).join("volume-subpaths").join(&mount.name);
                        let target = target.join(&container.name).join(index.to_string());
                        let subpath = (path.clone(), subpath);
                        self.bind_subpath(pod, subpath, target.clone(), mount, container).await?;
                        target
                    }
                };
                result.host_path = source.display().to_string();
            }
        }
        Ok(result)
    }

    /// The detail of a failure goes to the log only: it could tell a pod about the node's files.
    async fn bind_subpath(
        &self,
        pod: &Pod,
        (volume, subpath): (PathBuf, String),
        target: PathBuf,
        mount: &VolumeMount,
        container: &Container,
    ) -> Result<(), String> {
        let what = format!("subPath {subpath:?} of {}", volume.display());
        let bind =
            move || subpath::bind(&volume, Path::new(&subpath), &target).map_err(|error| error.to_string());
        let Err(failure) = self.off_thread(uid(pod), what, bind).await else { return Ok(()) };
        tracing::warn!(
            "subPath of volumeMount {:?} of container {:?}: {failure}",
            mount.name,
            container.name
        );
        Err(format!(
            "failed to prepare subPath for volumeMount {:?} of container {:?}",
            mount.name, container.name
        ))
    }

    /// The file lies with the pod's other files on the state disk, as the kubelet's does: what a container
    /// writes to it takes the disk's room as a file in an emptyDir does, and goes with the pod.
    async fn hosts_mount(
        &self,
        pod: &Pod,
        host_network: bool,
        context: MountContext<'_>,
    ) -> Result<Mount, VolumeError> {
        let path = self.pod_dir(uid(pod)).join("etc-hosts");
        let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.clone()).unwrap_or_default();
        let (ips, hostname, domain) =
            (context.pod_ips.to_vec(), context.hostname.to_owned(), context.domain.to_owned());
        let (what, file) = (format!("write {}", path.display()), path.clone());
        let write = move || {
            let read =
                || std::fs::read_to_string(ETC_HOSTS).map_err(|error| format!("read {ETC_HOSTS}: {error}"));
            let node = host_network.then(read).transpose()?;
            let content = hosts_file(node.as_deref(), &ips, &hostname, &domain, &aliases);
            write_with_mode(&file, &content, 0o644)
        };
        self.off_thread(uid(pod), what, write).await.map_err(VolumeError::Mount)?;
        Ok(private(ETC_HOSTS.to_owned(), path.display().to_string()))
    }

    /// Where the termination message of one instance of a container appears.
    #[must_use]
    pub fn termination_log(&self, pod_uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(pod_uid).join("containers").join(container).join(attempt.to_string())
    }
}

fn subpath_of(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, String> {
    let expression = mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty());
    let subpath = match expression {
        Some(expression) => expand_strict(expression, |name| environment.get(name).map(str::to_owned))
            .map_err(|name| format!("missing value for {name:?}"))?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if subpath.is_empty() {
        return Ok(None);
    }
    subpath::validate(&subpath)?;
    Ok(Some(subpath))
}

fn propagation(mount: &VolumeMount) -> Result<MountPropagation, String> {
    match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => Ok(MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(MountPropagation::PropagationBidirectional),
        Some(other) => Err(format!("invalid MountPropagation mode: {other:?}")),
    }
}

fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    if matches!(mode, "" | "Disabled") {
        return Ok(false);
    }
    if mount.read_only != Some(true) {
        return Err(format!(
            "volume {:?} requested recursive read-only mode, but it is not read-only",
            mount.name
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(format!(
            "volume {:?} requested recursive read-only mode, but it is not supported by the runtime",
            mount.name
        )),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn private(container_path: String, host_path: String) -> Mount {
    Mount { container_path, host_path, ..Mount::default() }
}

/// Makes an empty file that any user may write, and forgets those of all but the last instance.
fn termination_log_file(dir: &Path, container: &str, attempt: u32) -> Result<PathBuf, String> {
    let folder = dir.join("containers").join(container);
    let failed = |error: std::io::Error| format!("create {}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for entry in std::fs::read_dir(&folder).map_err(failed)?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if number.is_none_or(|number| number.saturating_add(1) < attempt) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let file = folder.join(attempt.to_string());
    write_with_mode(&file, "", 0o666)?;
    Ok(file)
}

fn write_with_mode(path: &Path, content: &str, mode: u32) -> Result<(), String> {
    let written = shared_file::write(path, content.as_bytes(), mode);
    written.map_err(|error| format!("write {}: {error}", path.display()))
}
