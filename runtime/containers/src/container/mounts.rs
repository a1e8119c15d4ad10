//! A container's volumes. libcontainer knows neither the propagation of a single mount nor id maps, so while a container is launched each volume lies in place on
//! the host: a copy of its mount tree below the container's folder, settled in every respect, which libcontainer then only has to bind. The
//! folder lies on a private mount, so nothing of it is seen elsewhere; once libcontainer has its own copies they go again, because what is mounted
//! on the host cannot be removed there.
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};

use images::Snapshot;
use machine::cri;
use serde::{Deserialize, Serialize};
use sys::mount_tree::{Propagation, Tree};

use crate::errors::MountError;
use crate::errors::Step;
use crate::runtime::{Container, Runtime};
use crate::state::folder;
use crate::user_namespace::UserNamespace;

/// Where a container's settled mounts lie, below its folder.
const STAGE: &str = "mounts";

/// What CRI promises about mounts that cannot be.
///
/// # Errors
/// What is wrong with the mount.
pub fn check(mount: &cri::Mount) -> Result<(), String> {
    if mount.container_path.is_empty() || (mount.host_path.is_empty() && mount.image.is_none()) {
        return Err("a mount needs a host path and a container path".into());
    }
    if clean(Path::new(&mount.container_path)) == Path::new("/") {
        return Err("a mount cannot take the place of the container's root".into());
    }
    if hides_proc(mount) {
        return Err(format!("a volume at {} would stand in for what is the kernel's", mount.container_path));
    }
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(format!("mount {}: recursive_read_only needs readonly", mount.container_path));
        }
        if mount.propagation() != cri::MountPropagation::PropagationPrivate {
            return Err(format!(
                "mount {}: recursive_read_only needs private propagation",
                mount.container_path
            ));
        }
    }
    Ok(())
}

/// Files of /proc that may be something else, such as lxcfs'.
const PROC_FILES: &[&str] =
    &["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"];

/// /proc of another kind would take the security attributes that are written there (CVE-2019-19921); the host's own is one.
fn hides_proc(mount: &cri::Mount) -> bool {
    let path = clean(Path::new(&mount.container_path));
    let parts: Vec<_> = path.iter().skip(1).map(|part| part.to_string_lossy()).collect();
    match parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        ["proc"] => mount.host_path != "/proc",
        ["proc", file] => !PROC_FILES.contains(&file),
        ["proc", ..] => true,
        _ => false,
    }
}

/// The path from the root on, without `.` and with `..` taken at its word.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Whether mounts can come from, or also go to, what `path` lies on: the optional fields of the innermost mount in mountinfo.
fn peers(mountinfo: &str, path: &Path) -> (bool, bool) {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((before, _)) = line.split_once(" - ") else { continue };
        let mut fields = before.splitn(7, ' ');
        let Some(point) = fields.nth(4) else { continue };
        let optional = fields.nth(1).unwrap_or_default();
        // Later mounts cover earlier ones at the same place.
        if path.starts_with(point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), optional));
        }
    }
    let optional = best.map(|(_, optional)| optional).unwrap_or_default();
    let shared = optional.contains("shared:");
    (shared || optional.contains("master:"), shared)
}

fn propagation(mount: &cri::Mount) -> io::Result<Propagation> {
    let wanted = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => return Ok(Propagation::Private),
        cri::MountPropagation::PropagationHostToContainer => Propagation::Slave,
        cri::MountPropagation::PropagationBidirectional => Propagation::Shared,
    };
    let path = fs::canonicalize(&mount.host_path)?;
    let (slave, shared) = peers(&fs::read_to_string("/proc/self/mountinfo")?, &path);
    if (wanted == Propagation::Slave && !slave) || (wanted == Propagation::Shared && !shared) {
        let needed = if wanted == Propagation::Slave { "a shared or slave" } else { "a shared" };
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path {:?} does not lie on {needed} mount", mount.host_path),
        ));
    }
    Ok(wanted)
}

/// What lies in place while a container is launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name below the container's folder.
    name: String,
    source: PathBuf,
    #[serde(with = "Kind")]
    propagation: Propagation,
    recursive_read_only: bool,
    /// Whether its files' owners are those of the pod's user namespace.
    mapped: bool,
}

/// [`Propagation`] on file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Propagation")]
enum Kind {
    Private,
    Slave,
    Shared,
}

/// The file that says what has to lie in place.
fn plan(container_folder: &Path) -> PathBuf {
    container_folder.join("mounts.json")
}

/// Writes down what has to lie in place; returns where each will.
pub fn write_plan(container_folder: &Path, volumes: &[Volume]) -> io::Result<()> {
    crate::state::write_private(&plan(container_folder), &serde_json::to_vec(volumes)?)
}

fn place(container_folder: &Path, name: &str) -> PathBuf {
    container_folder.join(STAGE).join(name)
}

/// Puts everything in place.
///
/// # Errors
/// Names the volume that the kernel refused.
pub fn lay(container_folder: &Path, owner: Option<&UserNamespace>) -> io::Result<()> {
    let volumes: Vec<Volume> = serde_json::from_slice(&fs::read(plan(container_folder))?)?;
    fs::create_dir_all(container_folder.join(STAGE))?;
    for volume in &volumes {
        volume.settle(&place(container_folder, &volume.name), owner).map_err(|error| {
            io::Error::new(error.kind(), format!("mount {}: {error}", volume.source.display()))
        })?;
    }
    Ok(())
}

/// Takes everything away again; nothing there is no error.
///
/// # Errors
/// As mount_setattr(2) and umount2(2).
pub fn lift(container_folder: &Path) -> io::Result<()> {
    let stage = container_folder.join(STAGE);
    for entry in fs::read_dir(&stage).into_iter().flatten().flatten() {
        // Otherwise what is mounted below a shared volume would be unmounted at its source, too.
        sys::mount_tree::make_private(&entry.path())?;
        crate::namespaces::unmount(&entry.path())?;
    }
    crate::state::remove_folder(&stage)
}

impl Volume {
    fn settle(&self, target: &Path, owner: Option<&UserNamespace>) -> io::Result<()> {
        let tree = Tree::copy(&self.source)?;
        // A shared tree stays in the group it was copied from.
        if self.propagation != Propagation::Shared {
            tree.propagate(self.propagation)?;
        }
        if let Some(owner) = owner.filter(|_| self.mapped) {
            tree.map_ids(owner.file.as_fd()).map_err(|error| {
                io::Error::new(error.kind(), format!("its file system must allow idmapped mounts: {error}"))
            })?;
        }
        if self.recursive_read_only {
            tree.read_only()?;
        }
        if fs::metadata(&self.source)?.is_dir() {
            fs::create_dir_all(target)?;
        } else {
            File::create(target)?;
        }
        tree.attach(target)
    }
}

/// Mounts an image's layers, with a writable one on top, at `target`; with an `owner` as its users own the files.
pub fn mount_layers(layers: &Snapshot, target: &Path, owner: Option<&UserNamespace>) -> io::Result<()> {
    let Some(owner) = owner else {
        return sys::overlay::mount(&layers.lower, Some((&layers.upper, &layers.work)), target);
    };
    // The overlay keeps layers of its own, so the mapped ones only have to be there while it is made.
    let stage = target.with_extension("lower");
    let mounted = || -> io::Result<()> {
        let mut lower = Vec::new();
        for (index, layer) in layers.lower.iter().enumerate() {
            let place = stage.join(index.to_string());
            fs::create_dir_all(&place)?;
            let tree = Tree::copy(layer)?;
            tree.propagate(Propagation::Private)?;
            tree.map_ids(owner.file.as_fd())?;
            tree.attach(&place)?;
            lower.push(place);
        }
        std::os::unix::fs::chown(&layers.upper, Some(owner.host_uid(0)), Some(owner.host_gid(0)))?;
        sys::overlay::mount(&lower, Some((&layers.upper, &layers.work)), target)
    };
    let result = mounted();
    for index in 0..layers.lower.len() {
        crate::namespaces::unmount(&stage.join(index.to_string()))?;
    }
    crate::state::remove_folder(&stage)?;
    result
}

/// Unmounts everything of a container.
pub fn undo(container_folder: &Path) -> io::Result<()> {
    lift(container_folder)?;
    for entry in fs::read_dir(container_folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".lower") {
            for layer in fs::read_dir(entry.path())?.flatten() {
                crate::namespaces::unmount(&layer.path())?;
            }
        } else if name.starts_with("volume-") {
            crate::namespaces::unmount(&entry.path())?;
        }
    }
    crate::namespaces::unmount(&container_folder.join("rootfs"))
}

/// Where a file of the pod is for the container: in its place, or with the owners that the pod's user namespace knows.
pub fn pod_file(
    container_folder: &Path,
    name: &str,
    path: &Path,
    mapped: bool,
    volumes: &mut Vec<Volume>,
) -> PathBuf {
    if !mapped {
        return path.to_owned();
    }
    volumes.push(Volume {
        name: name.to_owned(),
        source: path.to_owned(),
        propagation: Propagation::Private,
        recursive_read_only: false,
        mapped,
    });
    place(container_folder, name)
}

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where a path leads in the root, links of the root followed, also those that lead to what is not there yet.
pub fn leads(rootfs: &Path, path: &Path) -> PathBuf {
    let opened = |path: &Path| {
        let folder = sys::beneath::open_in_root(rootfs, path).ok()?;
        let place = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()?;
        Some((folder, place))
    };
    let Some((_, root)) = opened(Path::new("/")) else { return clean(path) };
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let deepest = path.ancestors().find_map(|ancestor| Some((ancestor, opened(ancestor)?)));
        let Some((ancestor, (folder, place))) = deepest else { break };
        let inside = Path::new("/").join(place.strip_prefix(&root).unwrap_or(Path::new("")));
        let mut rest = path.strip_prefix(ancestor).unwrap_or(Path::new("")).components();
        let Some(next) = rest.next() else { return inside };
        let link = fs::read_link(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(next));
        let Ok(link) = link else { return clean(&inside.join(next).join(rest)) };
        path = inside.join(link).join(rest);
    }
    clean(&path)
}

impl Runtime {
    /// The requested mounts with sources as they will lie in place, and those volumes added to `volumes`.
    pub(super) async fn mounts(
        &self,
        container: &Container,
        config: &cri::ContainerConfig,
        owner: Option<&UserNamespace>,
        volumes: &mut Vec<Volume>,
    ) -> Result<Vec<cri::Mount>, MountError> {
        let id = container.record().id;
        let mut mounts = config.mounts.clone();
        for (index, mount) in mounts.iter_mut().enumerate() {
            check(mount).map_err(MountError::Invalid)?;
            // A link of the image must lead nowhere that the mount could not name.
            let path = clean(Path::new(&mount.container_path));
            let led = leads(&folder("containers", &id).join("rootfs"), &path);
            mount.container_path = led.to_string_lossy().into_owned();
            check(mount).map_err(MountError::Invalid)?;
            // Only there does it matter by which name.
            if led != Path::new("/dev") {
                mount.container_path = path.to_string_lossy().into_owned();
            }
            if mount.image.is_some() {
                self.image_volume(container, index, mount, owner).await?;
            } else if !Path::new(&mount.host_path).exists() {
                fs::create_dir_all(&mount.host_path)
                    .step(format_args!("make the mount source {}", mount.host_path))?;
            }
            let what = format!("mount {} at {}", mount.host_path, mount.container_path);
            let propagation = match propagation(mount) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(MountError::Invalid(format!("{what}: {error}")));
                }
                other => other.step(what)?,
            };
            let name = index.to_string();
            let target = place(&folder("containers", &id), &name);
            volumes.push(Volume {
                name,
                source: PathBuf::from(&mount.host_path),
                propagation,
                recursive_read_only: mount.recursive_read_only,
                mapped: !mount.uid_mappings.is_empty() && mount.image.is_none(),
            });
            mount.host_path = target.to_string_lossy().into_owned();
        }
        Ok(mounts)
    }

    /// Mounts an image as a volume, and finds the wanted path in it.
    async fn image_volume(
        &self,
        container: &Container,
        index: usize,
        mount: &mut cri::Mount,
        owner: Option<&UserNamespace>,
    ) -> Result<(), MountError> {
        let id = container.record().id;
        let wanted = mount.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.image(&wanted)?;
        let name = format!("{id}-{index}");
        container.update(|record| record.volumes.push(name.clone()))?;
        let what = format!("mount the image {wanted} as a volume");
        let layers = self.images.prepare(&name, &image).await;
        let layers = layers.step(&what)?;
        let target = folder("containers", &id).join(format!("volume-{index}"));
        fs::create_dir_all(&target).and_then(|()| mount_layers(&layers, &target, owner)).step(&what)?;
        let path = mount.image_sub_path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        let inside = sys::beneath::open_in_root(&target, Path::new(path))
            .and_then(|file| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())))
            .map_err(|error| {
                MountError::Invalid(format!("image volume path {:?}: {error}", mount.image_sub_path))
            })?;
        mount.host_path = inside.to_string_lossy().into_owned();
        mount.readonly = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
