//! The mounts of a container that libcontainer need not make. It resolves every path with some seventy system calls, and most of a container's mounts only have
//! to be in its root, wherever they were made: these the launch attaches itself, before libcontainer binds that root with all that is on it. With
//! libcontainer stay file systems of the container's own namespaces, and what lies on or below them.
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sys::mount_tree::{Propagation, Tree};

/// The file of the bundle that lists them.
const FILE: &str = "early.json";

/// An entry of OCI's `mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    destination: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    source: PathBuf,
    options: Vec<String>,
}

/// Takes out of a spec's mounts those that the launch can make; if it may make none, nothing. What is left has file systems of the container's namespaces
/// at its end: while volumes are mounted there is no /proc whose files a neighbour's links could lead them to (CVE-2025-52881). `leads` says where a
/// path of the container's root leads to.
///
/// # Errors
/// When the mounts cannot be understood.
pub fn split(
    spec: &mut Value,
    may: bool,
    leads: impl Fn(&Path) -> PathBuf,
) -> serde_json::Result<Vec<Mount>> {
    // libcontainer makes all mounts of the host shared first, and what it finds on the root with them.
    let may = may && spec["linux"]["rootfsPropagation"].is_null();
    let (mut early, mut kept, mut last) = (Vec::new(), Vec::<Mount>::new(), Vec::<Mount>::new());
    for mount in serde_json::from_value::<Vec<Mount>>(spec["mounts"].take())? {
        let places = [leads(&mount.destination), mount.destination.clone()];
        // It must be made after those that it is on, and those that it hides.
        let bound = |others: &[Mount]| {
            let mut others = others.iter().map(|other| &other.destination);
            others
                .any(|other| places.iter().any(|place| place.starts_with(other) || other.starts_with(place)))
        };
        let list = if mount.is_of_namespaces() || bound(&last) {
            &mut last
        } else if !may || !mount.is_understood() || bound(&kept) {
            &mut kept
        } else {
            &mut early
        };
        list.push(mount);
    }
    kept.append(&mut last);
    spec["mounts"] = serde_json::to_value(kept)?;
    Ok(early)
}

/// Writes down what the launch of the container in `bundle` shall attach.
///
/// # Errors
/// As open(2) and write(2).
pub fn write(bundle: &Path, mounts: &[Mount]) -> io::Result<()> {
    crate::state::write_private(&bundle.join(FILE), &serde_json::to_vec(mounts)?)
}

impl Mount {
    /// Whether it is a file system of the container's namespaces, which only a process in them can make.
    fn is_of_namespaces(&self) -> bool {
        !["bind", "tmpfs", "devpts"].contains(&self.kind.as_str())
    }

    /// Whether [`Premounts`] does everything that the entry says.
    fn is_understood(&self) -> bool {
        let known: fn(&String) -> bool = match self.kind.as_str() {
            "bind" => |option| ["rbind", "rprivate", "rslave", "rw", "ro", "rro"].contains(&option.as_str()),
            "tmpfs" | "devpts" => |option| attribute(option).is_some() || parameter(option).is_some(),
            _ => return false,
        };
        self.options.iter().all(known)
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }

    /// A copy of the source's mounts, or a new file system, attached nowhere.
    fn make(&self) -> io::Result<Made> {
        if self.kind == "bind" {
            let tree = Tree::copy(&self.source)?;
            let slave = self.has("rslave");
            tree.propagate(if slave { Propagation::Slave } else { Propagation::Private })?;
            if self.has("rro") {
                tree.read_only()?;
            } else if self.has("ro") {
                tree.read_only_itself()?;
            }
            return Ok(Made::Copy(tree));
        }
        let context = fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", &self.source)?;
        for (name, value) in self.options.iter().filter_map(|option| parameter(option)) {
            match value {
                Some(value) => fsconfig_set_string(context.as_fd(), name, value)?,
                None => fsconfig_set_flag(context.as_fd(), name)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        let attributes = self.options.iter().filter_map(|option| attribute(option)).collect();
        Ok(Made::New(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }
}

/// What an option says about a mount.
fn attribute(option: &str) -> Option<MountAttrFlags> {
    Some(match option {
        "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
        "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
        "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        _ => return None,
    })
}

/// What an option says about a file system.
fn parameter(option: &str) -> Option<(&str, Option<&str>)> {
    match option.split_once('=') {
        Some((name, value)) => Some((name, Some(value))),
        None if option == "newinstance" => Some((option, None)),
        None => None,
    }
}

#[derive(Debug)]
enum Made {
    Copy(Tree),
    New(OwnedFd),
}

impl Made {
    fn is_folder(&self) -> io::Result<bool> {
        match self {
            Self::Copy(tree) => Ok(FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode).is_dir()),
            Self::New(_) => Ok(true),
        }
    }

    fn attach_on(self, target: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Copy(tree) => tree.attach_on(target),
            Self::New(mount) => {
                let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                Ok(move_mount(mount.as_fd(), "", target, "", both)?)
            }
        }
    }
}

/// A container's early mounts, ready to be attached.
#[derive(Debug)]
pub struct Premounts(Vec<(PathBuf, Made)>);

impl Premounts {
    /// Makes what the container in `bundle` wants; call it where its sources are.
    ///
    /// # Errors
    /// Names the source that the kernel refused.
    pub fn make(bundle: &Path) -> io::Result<Self> {
        let mounts: Vec<Mount> = serde_json::from_slice(&std::fs::read(bundle.join(FILE))?)?;
        let make = |mount: Mount| match mount.make() {
            Ok(made) => Ok((mount.destination, made)),
            Err(error) => Err(super::mount_ns::named("mount", &mount.source, &error)),
        };
        mounts.into_iter().map(make).collect::<io::Result<_>>().map(Self)
    }

    /// Attaches everything in the root at `root`, with folders and files to be attached on where there are none.
    ///
    /// # Errors
    /// Names the destination that cannot be.
    pub fn attach(self, root: &Path) -> io::Result<()> {
        for (destination, made) in self.0 {
            // Opened anew: it shall be the topmost of what is mounted there.
            let attached = openat2(CWD, root, FOLDER, Mode::empty(), ResolveFlags::empty())
                .map_err(io::Error::from)
                .and_then(|root| place(&root, &destination, made.is_folder()?, None, MAX_LINKS))
                .and_then(|target| made.attach_on(target.as_fd()));
            attached.map_err(|error| super::mount_ns::named("mount at", &destination, &error))?;
        }
        Ok(())
    }
}

/// Makes the folder that the container's process begins in, where there is none, as runc does: root's, which
/// is the owner of the root folder where the pod has users of its own.
///
/// # Errors
/// Names the folder; also when there is something else.
pub fn make_folder(root: &Path, folder: &Path, has_users: bool) -> io::Result<()> {
    let make = || -> io::Result<()> {
        let root = openat2(CWD, root, FOLDER, Mode::empty(), ResolveFlags::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let owner = has_users.then(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
        let found = place(&root, folder, true, owner, MAX_LINKS)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        if kind.is_dir() { Ok(()) } else { Err(Errno::NOTDIR.into()) }
    };
    make().map_err(|error| super::mount_ns::named("make the working folder", folder, &error))
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Others may rename folders of a volume meanwhile, and each time the kernel has to look again.
const RETRIES: usize = 128;

/// Opens `path` as a process whose root is `root` would, links included.
fn open(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let once = || openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside);
    let settled = |result: &Result<OwnedFd, Errno>| !matches!(result, Err(Errno::AGAIN));
    std::iter::repeat_with(once).take(RETRIES).find(settled).unwrap_or(Err(Errno::AGAIN))
}

/// How many links that lead to nothing are followed.
const MAX_LINKS: usize = 8;

/// The place at `path` in the root, made if there is none: where a link leads, if there is a link that leads
/// to nothing. Folders on the way are the owner's, or root's.
fn place(
    root: &OwnedFd,
    path: &Path,
    folder: bool,
    owner: Option<(Uid, Gid)>,
    links: usize,
) -> io::Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let above = place(root, parent, true, owner, links)?;
    let made = if folder {
        rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)).and_then(|()| match owner {
            Some((uid, gid)) => {
                rustix::fs::chownat(&above, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            }
            None => Ok(()),
        })
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Ok(()) => Ok(open(root, path)?),
        Err(Errno::EXIST) => match rustix::fs::readlinkat(&above, name, Vec::new()) {
            Ok(_) if links == 0 => Err(Errno::LOOP.into()),
            Ok(link) => {
                place(root, &parent.join(OsStr::from_bytes(link.as_bytes())), folder, owner, links - 1)
            }
            // Another process was faster.
            Err(_) => Ok(open(root, path)?),
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bind(destination: &str, options: &[&str]) -> Value {
        json!({"destination": destination, "type": "bind", "source": "/x", "options": options})
    }

    fn kernels(destination: &str, kind: &str) -> Value {
        json!({"destination": destination, "type": kind, "source": kind, "options": ["nosuid"]})
    }

    /// Where what is early goes, and what is left to libcontainer.
    fn divide(mounts: Vec<Value>) -> (Vec<String>, Vec<String>) {
        let mut spec = json!({"linux": {}, "mounts": mounts});
        let leads = |path: &Path| match path.strip_prefix("/link") {
            Ok(rest) => Path::new("/proc").join(rest),
            Err(_) => path.to_owned(),
        };
        let early = split(&mut spec, true, leads).unwrap();
        let kept: Vec<Mount> = serde_json::from_value(spec["mounts"].take()).unwrap();
        let places = |mounts: Vec<Mount>| {
            mounts.into_iter().map(|mount| mount.destination.display().to_string()).collect()
        };
        (places(early), places(kept))
    }

    #[test]
    fn what_is_of_the_containers_namespaces_stays() {
        let (early, kept) = divide(vec![
            kernels("/proc", "proc"),
            kernels("/dev", "tmpfs"),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5"]}),
            kernels("/dev/mqueue", "mqueue"),
            bind("/etc/hosts", &["rbind", "rprivate", "ro"]),
            bind("/dev/shm", &["rbind", "rprivate", "rw"]),
        ]);
        assert_eq!(early, ["/dev", "/dev/pts", "/etc/hosts", "/dev/shm"]);
        assert_eq!(kept, ["/proc", "/dev/mqueue"]);
    }

    #[test]
    fn what_is_on_such_a_mount_or_hides_one_stays_in_order() {
        let (early, kept) = divide(vec![
            kernels("/proc", "proc"),
            kernels("/sys/fs/cgroup", "cgroup"),
            bind("/sys", &["rbind"]),
            bind("/link/meminfo", &["rbind"]),
            bind("/proc/stat", &["rbind"]),
            bind("/sys/a/b", &["rbind"]),
            bind("/sysroot", &["rbind"]),
        ]);
        assert_eq!(early, ["/sysroot"]);
        assert_eq!(kept, ["/proc", "/sys/fs/cgroup", "/sys", "/link/meminfo", "/proc/stat", "/sys/a/b"]);
    }

    #[test]
    fn what_is_not_understood_stays_with_what_is_below() {
        let (early, kept) = divide(vec![
            kernels("/proc", "proc"),
            bind("/a", &["rbind", "rshared", "rw"]),
            bind("/a/b", &["rbind", "rprivate"]),
            bind("/c", &["rbind", "rro"]),
            bind("/d", &["rbind", "noexec"]),
            bind("/e", &["rbind", "rslave"]),
        ]);
        assert_eq!(early, ["/c", "/e"]);
        assert_eq!(kept, ["/a", "/a/b", "/d", "/proc"]);
    }

    #[test]
    fn where_none_may_be_early_the_namespaces_file_systems_are_last() {
        let mounts = [kernels("/proc", "proc"), bind("/e", &["rbind"]), bind("/proc/stat", &["rbind"])];
        for (may, linux) in [(true, json!({"rootfsPropagation": "shared"})), (false, json!({}))] {
            let mut spec = json!({"linux": linux, "mounts": mounts});
            assert_eq!(split(&mut spec, may, Path::to_owned).unwrap(), []);
            let [proc, volume, stat] = mounts.clone();
            assert_eq!(spec["mounts"], json!([volume, proc, stat]));
        }
    }

    #[test]
    fn a_place_is_made_in_the_root_alone() {
        let root = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        link("link", "/../../inside");
        link("etc/resolv.conf", "../run/resolve/stub");
        link("around", "/around");
        let opened = openat2(CWD, root.path(), FOLDER, Mode::empty(), ResolveFlags::empty()).unwrap();
        let place = |path: &str, folder| place(&opened, Path::new(path), folder, None, MAX_LINKS);
        place("/link/a/b", true).unwrap();
        place("/link/a/c", false).unwrap();
        place("/etc/resolv.conf", false).unwrap();
        assert!(root.path().join("inside/a/b").is_dir());
        assert!(root.path().join("inside/a/c").is_file());
        assert!(root.path().join("run/resolve/stub").is_file());
        for path in ["/around/a", "/around", "/x/../y/.."] {
            assert!(place(path, true).is_err(), "{path}");
        }
    }
}
