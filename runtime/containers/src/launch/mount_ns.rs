//! The mount namespace that containers are made in. For each container libcontainer copies the whole namespace that it runs in, reads through the copy and
//! takes it apart again. In the runtime's own namespace, with five mounts of every pod, a container would take the longer the more pods there are; so a
//! launch goes into one without any, and takes along what its own container is made of.
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde::Deserialize;
use sys::mount_tree::Tree;

/// File systems of the kernel, which nobody ever unmounts.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The namespace. It lives as long as this, and holds no file system that might be unmounted elsewhere.
#[derive(Debug)]
pub struct MountNs {
    namespace: OwnedFd,
    /// In it; another one than the namespace's own where the runtime is in a chroot.
    root: OwnedFd,
}

impl MountNs {
    /// How many descriptors it is.
    const DESCRIPTORS: usize = 2;

    /// What [`enter`] takes.
    pub fn raw(&self) -> [RawFd; Self::DESCRIPTORS] {
        [self.namespace.as_raw_fd(), self.root.as_raw_fd()]
    }
}

/// Makes the namespace.
///
/// # Errors
/// As unshare(2) and mount(2).
pub fn make() -> io::Result<MountNs> {
    let program = super::program();
    let thread = std::thread::Builder::new().name("base".into()).spawn(move || in_thread(&program))?;
    thread.join().map_err(|_| io::Error::other("the thread that makes a mount namespace panicked"))?
}

fn in_thread(program: &Path) -> io::Result<MountNs> {
    let mounts = sys::mount::mounts()?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // First of all: nothing that follows may be seen elsewhere.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    // Those on top of others come later in the list.
    for point in mounts.iter().rev().map(|mount| &mount.target).filter(|point| !stays(point, program)) {
        crate::namespaces::unmount(point)?;
    }
    Ok(MountNs { namespace: File::open("/proc/thread-self/ns/mnt")?.into(), root: File::open("/")?.into() })
}

/// Whether launches look at something on the mount at `point`: the kernel's file systems, the runtime's folder, `pintle-launch` for hooks.
fn stays(point: &Path, program: &Path) -> bool {
    KERNEL.iter().any(|folder| point.starts_with(folder))
        || [Path::new(machine::paths::RUNTIME_RUN), program].iter().any(|needed| needed.starts_with(point))
}

/// What of a container's spec names things on the host, and where its process begins.
#[derive(Debug, Deserialize)]
pub struct Spec {
    #[serde(default)]
    process: Process,
    root: Named,
    mounts: Vec<Named>,
    linux: Linux,
    #[serde(default)]
    hooks: Hooks,
}

#[derive(Debug, Default, Deserialize)]
struct Process {
    cwd: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Linux {
    namespaces: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hooks {
    create_container: Vec<Hook>,
}

#[derive(Debug, Deserialize)]
struct Hook {
    args: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(alias = "source")]
    path: Option<PathBuf>,
}

impl Spec {
    /// The spec in `bundle`.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(bundle.join("config.json"))?)?)
    }

    /// Where its process begins, in its root.
    pub fn working_folder(&self) -> PathBuf {
        self.process.cwd.clone()
    }

    /// Whether its root is that of a user namespace.
    pub fn has_users(&self) -> bool {
        self.linux.namespaces.iter().any(|namespace| namespace.kind == "user")
    }

    /// What it names on the host.
    pub fn paths(self) -> BTreeSet<PathBuf> {
        let named = [self.root].into_iter().chain(self.mounts).chain(self.linux.namespaces);
        let arguments = self.hooks.create_container.into_iter().flat_map(|hook| hook.args);
        named.filter_map(|named| named.path).chain(arguments).filter(|path| path.is_absolute()).collect()
    }
}

/// Puts the calling process, which has no other thread, into a copy of a base of its own, with those of the paths on which something is mounted. The first of the
/// descriptors are the base; returns the others.
///
/// # Errors
/// Names the step that the kernel refused.
pub fn enter(mut descriptors: Vec<OwnedFd>, paths: BTreeSet<PathBuf>) -> io::Result<Vec<OwnedFd>> {
    if descriptors.len() < MountNs::DESCRIPTORS {
        return Err(io::Error::other("it did not come with the request"));
    }
    let others = descriptors.split_off(MountNs::DESCRIPTORS);
    let mut taken = Vec::new();
    let carriers: BTreeSet<PathBuf> = paths.iter().filter_map(|path| carrier(path, is_mounted)).collect();
    for path in carriers {
        taken.push((Tree::copy(&path).map_err(|error| named("copy the mount", &path, &error))?, path));
    }
    setns(&descriptors[0], CloneFlags::CLONE_NEWNS)?;
    nix::unistd::fchdir(&descriptors[1])?;
    nix::unistd::chroot(".")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    for (tree, path) in taken {
        tree.attach(&path).map_err(|error| named("take along the mount", &path, &error))?;
    }
    Ok(others)
}

/// Keeps libcontainer from moving what it forks into `cgroup`, where it is already, and from killing this process when it clears away after a failure.
///
/// # Errors
/// As mount(2).
pub fn hide_members(cgroup: &Path) -> io::Result<()> {
    for name in ["cgroup.procs", "cgroup.kill"] {
        let file = cgroup.join(name);
        mount(Some("/dev/null"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| named("cover", &file, &error.into()))?;
    }
    Ok(())
}

pub(super) fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// The mount that must come along for `path` to be there: what is mounted right there, or the pod's mount
/// that it lies on.
fn carrier(path: &Path, is_mounted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let pods = pods();
    let of_pod = |place: &&Path| *place == path || (place.starts_with(&pods) && **place != pods);
    path.ancestors().take_while(of_pod).find(|place| is_mounted(place)).map(Path::to_owned)
}

/// Where each sandbox has a folder.
fn pods() -> PathBuf {
    Path::new(machine::paths::RUNTIME_RUN).join("sandboxes")
}

/// Whether something is mounted right there.
fn is_mounted(path: &Path) -> bool {
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pods_stays() {
        let program = Path::new("/opt/pintle/pintle-launch");
        for point in ["/", "/run", "/sys/fs/cgroup", "/proc", "/dev/pts", "/opt", "/opt/pintle/pintle-launch"]
        {
            assert!(stays(Path::new(point), program), "{point}");
        }
        let runtime = machine::paths::RUNTIME_RUN;
        for point in
            [&format!("{runtime}/ns/1/net"), "/var/lib/kubelet/pods/1/volumes/a", "/optional", "/system"]
        {
            assert!(!stays(Path::new(point), program), "{point}");
        }
    }

    #[test]
    fn everything_of_the_host_in_a_spec_is_found_once() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion": "1.2.0", "root": {"path": "/c/rootfs", "readonly": true},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/a", "source": "/c/mounts/0"},
                           {"destination": "/b", "source": "/c/mounts/0"}, {"destination": "/run", "type": "tmpfs"}],
                "linux": {"cgroupsPath": "/x", "namespaces": [{"type": "mount"}, {"type": "network", "path": "/ns/net"}]},
                "hooks": {"createContainer": [{"path": "/bin/launch", "args": ["launch", "attach", "/c/mounts/1", "/c/rootfs"]}]}}"#,
        )
        .unwrap();
        let paths: Vec<PathBuf> = spec.paths().into_iter().collect();
        assert_eq!(paths, ["/c/mounts/0", "/c/mounts/1", "/c/rootfs", "/ns/net"].map(PathBuf::from));
    }

    #[test]
    fn a_file_of_a_pod_comes_along_with_what_it_lies_on() {
        let files = pods().join("1/files");
        let mounted =
            |path: &Path| path == files || path == Path::new("/c/mounts/0") || path == Path::new("/");
        let carrier = |path: &Path| carrier(path, mounted);
        assert_eq!(carrier(&files.join("resolv.conf")), Some(files.clone()));
        assert_eq!(carrier(Path::new("/c/mounts/0")), Some("/c/mounts/0".into()));
        for path in ["/c/mounts/0/below", "/c/rootfs", "/dev/shm"] {
            assert_eq!(carrier(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn mounts_are_told_from_folders_on_them() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/sys/kernel")) && !is_mounted(Path::new("/nowhere")));
        // A way to a namespace, not one that is pinned.
        assert!(!is_mounted(Path::new("/proc/self/ns/net")));
    }
}
