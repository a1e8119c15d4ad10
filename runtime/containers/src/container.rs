//! Making containers: everything about one is decided and on file before anything of it runs.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use images::Image;
use machine::cri;
use node_kit::errors::Chain;

mod mounts;
mod resume;
mod start;
mod stop;
mod update;

use crate::errors::Step;
use crate::errors::{CreateError, ImageError};
use crate::launch::premount;
use crate::pod;
use crate::runtime::{Container, Runtime, namespaces};
use crate::spec::{self, capabilities, devices, user};
use crate::state::folder;
use crate::state::{self, ContainerRecord, Phase, SandboxRecord};
use crate::user_namespace::UserNamespace;
use node_kit::lock;

pub(crate) use mounts::undo as unmount;

impl Runtime {
    /// Makes a container that can be started.
    ///
    /// # Errors
    /// For an unknown sandbox or image, in a stopped sandbox, for what cannot be, and with the step that failed; all is undone then.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, CreateError> {
        let sandbox = self.sandbox(sandbox_id)?.record();
        if !sandbox.ready {
            return Err(CreateError::SandboxNotReady(sandbox_id.to_owned()));
        }
        if config.metadata.is_none() {
            return Err(CreateError::Invalid("the container config has no metadata".into()));
        }
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.image(&name)?;
        let id = state::new_id().step("make a container id from /dev/urandom")?;
        let folder = folder("containers", &id);
        state::make_folder(&folder, state::CLOSED)
            .and_then(|()| fs::create_dir(folder.join("rootfs")))
            .step(format_args!("make the container's folder {}", folder.display()))?;
        let record = new_record(&id, &sandbox, config, &image);
        let container = Container::new(record);
        let _busy = container.busy.lock().await;
        if let Err(error) = container.update(|_| {}) {
            let _ = state::remove_folder(&folder);
            return Err(error.into());
        }
        let made = self.prepare(&container, &sandbox, &image).await;
        match made.and_then(|()| Ok(container.update(|record| record.phase = Phase::Created)?)) {
            Ok(_) => {
                lock(&self.containers).insert(id.clone(), Arc::clone(&container));
                self.publish(&container, cri::ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(error) => {
                if let Err(second) = self.erase(&container.record()).await {
                    let second = Chain(&second);
                    tracing::warn!(container = id, %second, "undo a failed container; it is tried again when the runtime starts");
                }
                Err(error)
            }
        }
    }

    fn image(&self, name: &str) -> Result<Image, ImageError> {
        let found = self.images.resolve(name).step(format_args!("look up the image {name:?}"))?;
        found.ok_or_else(|| ImageError::NotPresent(name.to_owned()))
    }

    async fn prepare(
        &self,
        container: &Container,
        sandbox: &SandboxRecord,
        image: &Image,
    ) -> Result<(), CreateError> {
        let invalid = |error: &dyn std::fmt::Display| CreateError::Invalid(error.to_string());
        let record = container.record();
        let folder = folder("containers", &record.id);
        let rootfs = folder.join("rootfs");
        let layers = self.images.prepare(&record.id, image).await;
        let layers = layers.step(format_args!("make the writable layer of {}", image.id))?;
        let owner = user_namespace(sandbox)
            .step(format_args!("open the user namespace of the pod sandbox {}", sandbox.id))?;
        if let Some(owner) = &owner {
            state::admit(&folder, owner.host_gid(0))
                .step(format_args!("let the pod's users come to {}", folder.display()))?;
        }
        mounts::mount_layers(&layers, &rootfs, owner.as_ref())
            .step(format_args!("mount the container's root at {}", rootfs.display()))?;
        plain_dev(&rootfs).map_err(|error| invalid(&error))?;
        let config = &record.config;
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.clone().unwrap_or_default();
        let (passwd, group) = user::databases(&rootfs);
        let image_user =
            image.config.config().as_ref().and_then(|image| image.user().clone()).unwrap_or_default();
        let user = user::decide(&security, &image_user, &passwd, &group).map_err(|error| invalid(&error))?;
        let capabilities = capabilities::decide(
            security.capabilities.as_ref(),
            security.privileged,
            &capabilities::available(),
        )
        .map_err(|name| CreateError::Invalid(format!("unknown capability {name:?}")))?;
        let mut nodes = devices::find(&config.devices).map_err(|error| invalid(&error))?;
        if security.privileged {
            nodes.extend(devices::all());
        }
        let seccomp = self.filter(&security, &capabilities)?;
        let apparmor = crate::apparmor::choose(&security).map_err(CreateError::Invalid)?;
        let options = security.namespace_options.clone().unwrap_or_else(|| state::options(&sandbox.config));
        let target = match options.pid() {
            cri::NamespaceMode::Target => Some(self.container(&options.target_id)?.record().pid),
            _ => None,
        };
        let mut volumes = Vec::new();
        let mounts = self.mounts(container, config, owner.as_ref(), &mut volumes).await?;
        let pod_files = pod_files(sandbox, &folder, owner.is_some(), &mut volumes);
        mounts::write_plan(&folder, &volumes)
            .step(format_args!("write the container's mounts to {}", folder.display()))?;
        let input = spec::Input {
            config,
            mounts: &mounts,
            image: &image.config,
            user: &user,
            capabilities: &capabilities,
            devices: &nodes,
            privileged: security.privileged,
            apparmor: apparmor.as_deref(),
            seccomp: seccomp.is_some(),
            rootfs: &rootfs,
            launch: &crate::launch::program(),
            pod_files: &pod_files,
            namespaces: &namespaces(sandbox, &options, target),
            cgroup: &container.cgroup().path(),
            hostname: &pod::hostname_of(sandbox),
        };
        let mut spec = spec::build(&input).map_err(|error| invalid(&error))?;
        // What is mounted for a user namespace must be made in it.
        premount::split(&mut spec, owner.is_none(), |path| mounts::leads(&rootfs, path))
            .map_err(io::Error::from)
            .and_then(|early| premount::write(&folder, &early))
            .and_then(|()| state::write_private(&folder.join("config.json"), &serde_json::to_vec(&spec)?))
            .step(format_args!("write the container's spec to {}", folder.display()))?;
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
    ) -> Result<Option<PathBuf>, CreateError> {
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
        compiled.map(Some).map_err(|error| CreateError::Invalid(error.to_string()))
    }
}

/// Where the pod's files are for the container.
fn pod_files(
    sandbox: &SandboxRecord,
    container_folder: &Path,
    mapped: bool,
    volumes: &mut Vec<mounts::Volume>,
) -> spec::PodFiles {
    let files = pod::PodFiles::of(&sandbox.id);
    let host_ipc = state::options(&sandbox.config).ipc == cri::NamespaceMode::Node as i32;
    let shm = if host_ipc { PathBuf::from("/dev/shm") } else { files.path("shm") };
    let mut of = |name: &str, path: &Path| mounts::pod_file(container_folder, name, path, mapped, volumes);
    spec::PodFiles {
        hostname: of("hostname", &files.path("hostname")),
        hosts: of("hosts", &files.path("hosts")),
        resolv_conf: of("resolv.conf", &files.path("resolv.conf")),
        shm: of("shm", &shm),
    }
}

/// The pod's user namespace, if it has one of its own.
fn user_namespace(sandbox: &SandboxRecord) -> io::Result<Option<UserNamespace>> {
    let maps = crate::user_namespace::maps(&state::options(&sandbox.config)).map_err(io::Error::other)?;
    maps.map(|maps| UserNamespace::open(maps, &folder("ns", &sandbox.id).join("user"))).transpose()
}

/// libcontainer makes links in `<root>/dev` by that path, following a link that the image has in its place: out of the container
/// (CVE-2026-41579's class). So there must be a folder.
fn plain_dev(rootfs: &Path) -> io::Result<()> {
    let dev = rootfs.join("dev");
    match fs::symlink_metadata(&dev) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&dev),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the image's /dev is no folder, so no container can be made of it")),
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
        cgroup_parent: state::cgroup_parent(&sandbox.config),
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
