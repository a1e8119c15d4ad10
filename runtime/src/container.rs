//! Making containers: everything about one is decided and on file before anything of it runs.
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use machine::cri;
use tonic::Status;

mod start;
mod stop;

use crate::image::{Image, Snapshot};
use crate::pod;
use crate::runtime::{Container, Runtime, folder, internal, lock, namespaces};
use crate::spec::{self, capabilities, devices, user};
use crate::state::{self, ContainerRecord, Phase, SandboxRecord};

impl Runtime {
    /// Makes a container that can be started.
    ///
    /// # Errors
    /// `NotFound` for an unknown sandbox or image, `FailedPrecondition` in a stopped sandbox, `InvalidArgument` for what cannot be.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, Status> {
        let sandbox = self.sandbox(sandbox_id)?.record();
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("the pod sandbox {sandbox_id} is not ready")));
        }
        if config.metadata.is_none() {
            return Err(Status::invalid_argument("the container config has no metadata"));
        }
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.image(&name)?;
        let id = state::new_id().map_err(|error| internal("make a container id", &error))?;
        let folder = folder("containers", &id);
        fs::create_dir_all(folder.join("rootfs"))
            .map_err(|error| internal("make the container's folder", &error))?;
        let record = new_record(&id, &sandbox, config, &image);
        let container = Container::new(record);
        let _busy = container.busy.lock().await;
        container.update(|_| {})?;
        let made = self.prepare(&container, &sandbox, &image).await;
        match made {
            Ok(()) => {
                container.update(|record| record.phase = Phase::Created)?;
                lock(&self.containers).insert(id.clone(), Arc::clone(&container));
                self.publish(&container, cri::ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(error) => {
                if let Err(second) = self.erase(&container.record()).await {
                    tracing::warn!(container = id, %second, "undo a failed container; it is tried again when the runtime starts");
                }
                Err(error)
            }
        }
    }

    fn image(&self, name: &str) -> Result<Image, Status> {
        let found = self.images.resolve(name).map_err(|error| internal("look up the image", &error))?;
        found.ok_or_else(|| Status::not_found(format!("image {name:?} is not present; pull it first")))
    }

    async fn prepare(
        &self,
        container: &Container,
        sandbox: &SandboxRecord,
        image: &Image,
    ) -> Result<(), Status> {
        let record = container.record();
        let folder = folder("containers", &record.id);
        let rootfs = folder.join("rootfs");
        let layers = self
            .images
            .prepare(&record.id, image)
            .await
            .map_err(|error| internal("make the writable layer", &error))?;
        mount_layers(&layers, &rootfs).map_err(|error| internal("mount the container's root", &error))?;
        let config = &record.config;
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.clone().unwrap_or_default();
        let (passwd, group) = user::databases(&rootfs);
        let image_user =
            image.config.config().as_ref().and_then(|image| image.user().clone()).unwrap_or_default();
        let user = user::decide(&security, &image_user, &passwd, &group)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let capabilities = capabilities::decide(security.capabilities.as_ref(), security.privileged)
            .map_err(|name| Status::invalid_argument(format!("unknown capability {name:?}")))?;
        let mut nodes =
            devices::find(&config.devices).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if security.privileged {
            nodes.extend(devices::all());
        }
        let seccomp = self.filter(&security, &capabilities)?;
        let apparmor = apparmor(&security)?;
        let options = security.namespace_options.clone().unwrap_or_else(|| pod::options(&sandbox.config));
        let target = match options.pid() {
            cri::NamespaceMode::Target => Some(self.container(&options.target_id)?.record().pid),
            _ => None,
        };
        let mounts = self.mounts(container, &rootfs, config).await?;
        let of_pod = pod::options(&sandbox.config);
        let own_shm = crate::runtime::folder("sandboxes", &sandbox.id).join("shm");
        let host_ipc = of_pod.ipc == cri::NamespaceMode::Node as i32;
        let input = spec::Input {
            config,
            mounts: &mounts,
            sandbox: &sandbox.config,
            image: &image.config,
            user: &user,
            capabilities: &capabilities,
            devices: &nodes,
            privileged: security.privileged,
            apparmor: apparmor.as_deref(),
            seccomp: seccomp.is_some(),
            rootfs: &rootfs,
            sandbox_folder: &crate::runtime::folder("sandboxes", &sandbox.id),
            shm: if host_ipc { Path::new("/dev/shm") } else { &own_shm },
            namespaces: &namespaces(sandbox, &options, target),
            cgroup: &container.cgroup().path(),
            hostname: &pod::hostname_of(sandbox),
        };
        let spec = spec::build(&input).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let text =
            serde_json::to_vec(&spec).map_err(|error| internal("write the container's spec", &error))?;
        fs::write(folder.join("config.json"), text)
            .map_err(|error| internal("write the container's spec", &error))?;
        container.update(|record| {
            record.seccomp = seccomp;
            record.privileged = security.privileged;
            record.user =
                spec::user_record::UserRecord { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
            record.stop_signal = stop_signal(config, image);
        })?;
        Ok(())
    }

    /// The compiled system call filter.
    fn filter(
        &self,
        security: &cri::LinuxContainerSecurityContext,
        capabilities: &capabilities::Sets,
    ) -> Result<Option<PathBuf>, Status> {
        use cri::security_profile::ProfileType;
        let Some(profile) = security.seccomp.as_ref().filter(|_| !security.privileged) else {
            return Ok(None);
        };
        let compiled = match profile.profile_type() {
            ProfileType::Unconfined => return Ok(None),
            ProfileType::RuntimeDefault => self.seccomp.runtime_default(&capabilities.granted),
            ProfileType::Localhost => {
                let path = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
                self.seccomp.localhost(Path::new(path), &capabilities.granted)
            }
        };
        compiled.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Mounts with host paths that exist; image volumes are mounted below the container's folder.
    async fn mounts(
        &self,
        container: &Container,
        rootfs: &Path,
        config: &cri::ContainerConfig,
    ) -> Result<Vec<cri::Mount>, Status> {
        let id = container.record().id;
        let mut mounts = config.mounts.clone();
        for (index, mount) in mounts.iter_mut().enumerate() {
            if let Some(wanted) = &mount.image {
                let image = self.image(&wanted.image)?;
                let name = format!("{id}-{index}");
                container.update(|record| record.volumes.push(name.clone()))?;
                let layers = self
                    .images
                    .prepare(&name, &image)
                    .await
                    .map_err(|error| internal("mount an image volume", &error))?;
                let target = folder("containers", &id).join(format!("volume-{index}"));
                fs::create_dir_all(&target).map_err(|error| internal("mount an image volume", &error))?;
                mount_layers(&layers, &target).map_err(|error| internal("mount an image volume", &error))?;
                let inside = sys::beneath::open_in_root(
                    &target,
                    Path::new(mount.image_sub_path.trim_start_matches('/').if_empty(".")),
                )
                .and_then(|file| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())))
                .map_err(|error| {
                    Status::invalid_argument(format!("image volume path {:?}: {error}", mount.image_sub_path))
                })?;
                mount.host_path = inside.to_string_lossy().into_owned();
                mount.readonly = true;
                continue;
            }
            if mount.host_path.is_empty() || mount.container_path.is_empty() {
                return Err(Status::invalid_argument("a mount needs a host path and a container path"));
            }
            if !Path::new(&mount.host_path).exists() {
                fs::create_dir_all(&mount.host_path).map_err(|error| {
                    internal(&format!("make the mount source {}", mount.host_path), &error)
                })?;
            }
            if !mount.container_path.starts_with('/') {
                mount.container_path.insert(0, '/');
            }
        }
        let _ = rootfs;
        Ok(mounts)
    }
}

trait IfEmpty {
    fn if_empty(&self, other: &'static str) -> &str;
}

impl IfEmpty for str {
    fn if_empty(&self, other: &'static str) -> &str {
        if self.is_empty() { other } else { self }
    }
}

fn new_record(
    id: &str,
    sandbox: &SandboxRecord,
    config: cri::ContainerConfig,
    image: &Image,
) -> ContainerRecord {
    let log_path = match (sandbox.config.log_directory.as_str(), config.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (folder, file) => format!("{folder}/{file}"),
    };
    ContainerRecord {
        id: id.to_owned(),
        sandbox_id: sandbox.id.clone(),
        config,
        image_id: image.id.clone(),
        phase: Phase::Creating,
        created_at: state::now(),
        started_at: 0,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        pid: 0,
        start_time: 0,
        log_path,
        cgroup_parent: sandbox
            .config
            .linux
            .as_ref()
            .map(|linux| linux.cgroup_parent.clone())
            .filter(|parent| !parent.is_empty())
            .unwrap_or_else(|| "/kubepods".into()),
        stop_signal: nix::libc::SIGTERM,
        seccomp: None,
        privileged: false,
        user: Default::default(),
        volumes: Vec::new(),
    }
}

/// CRI numbers its signals in an order of its own; the names are the kernel's.
fn stop_signal(config: &cri::ContainerConfig, image: &Image) -> i32 {
    let requested = config.stop_signal().as_str_name().to_owned();
    let of_image =
        || image.config.config().as_ref().and_then(|image| image.stop_signal().clone()).unwrap_or_default();
    let name = if config.stop_signal == 0 { of_image() } else { requested };
    signal_number(&name).unwrap_or(nix::libc::SIGTERM)
}

/// By name, with or without SIG, or number.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let short = name.strip_prefix("SIG").unwrap_or(&name);
    // Real-time signals count from 34 with glibc, as Go and Docker count.
    if let Some(rest) = short.strip_prefix("RTMIN") {
        return (rest.is_empty() || rest.starts_with('+'))
            .then(|| 34 + rest.trim_start_matches('+').parse::<i32>().unwrap_or(0));
    }
    if let Some(rest) = short.strip_prefix("RTMAX") {
        let back = rest.trim_start_matches(['-', '_', 'M']).trim_start_matches("INUS");
        return Some(64 - back.parse::<i32>().unwrap_or(0));
    }
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// The AppArmor profile to enter; none on a kernel without AppArmor.
fn apparmor(security: &cri::LinuxContainerSecurityContext) -> Result<Option<String>, Status> {
    use cri::security_profile::ProfileType;
    let enabled =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    match security.apparmor.as_ref().map(|profile| (profile.profile_type(), profile)) {
        Some((ProfileType::Localhost, profile)) if !security.privileged => {
            if !enabled {
                return Err(Status::invalid_argument(format!(
                    "the AppArmor profile {} is asked for, but the kernel has no AppArmor",
                    profile.localhost_ref
                )));
            }
            Ok(Some(profile.localhost_ref.trim_start_matches("localhost/").to_owned()))
        }
        _ => Ok(None),
    }
}

fn mount_layers(layers: &Snapshot, target: &Path) -> io::Result<()> {
    sys::overlay::mount(&layers.lower, Some((&layers.upper, &layers.work)), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        assert_eq!(signal_number("SIGQUIT"), Some(3));
        assert_eq!(signal_number("term"), Some(15));
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
        assert_eq!(signal_number("9"), Some(9));
        assert_eq!(signal_number("nonsense"), None);
    }
}
