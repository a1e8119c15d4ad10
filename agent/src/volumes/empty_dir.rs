//! emptyDir: a directory on disk, a tmpfs or huge pages (pkg/volume/emptydir).
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::mount::{MsFlags, mount};

use crate::cgroup::{self, Amount, Amounts, NodeFacts, QosClass};

/// Where the bytes of an emptyDir lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// At most so many bytes; `None`: the kernel's default.
    Tmpfs(Option<i64>),
    /// Pages of so many bytes.
    HugePages(u64),
}

/// The medium that the pod asks for.
pub(super) fn medium(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    allocatable: &Amounts,
) -> Result<Medium, String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Tmpfs(tmpfs_size(pod, source, allocatable))),
        "HugePages" => {
            let mut sizes = huge_page_sizes(pod);
            match (sizes.pop(), sizes.is_empty()) {
                (Some(size), true) => Ok(Medium::HugePages(size)),
                (None, _) => {
                    Err("medium HugePages needs a huge page request in one of the containers".to_owned())
                }
                _ => Err(
                    "medium HugePages is ambiguous: the pod uses several page sizes; use HugePages-<size>"
                        .to_owned(),
                ),
            }
        }
        other => {
            let size = other.strip_prefix("HugePages-").and_then(|size| Amount::parse(size).ok());
            let size = size.ok_or_else(|| format!("unknown storage medium {other:?}"))?;
            Ok(Medium::HugePages(size.value().unsigned_abs()))
        }
    }
}

/// The least of what pods may use on the node, the pod's memory limit and the volume's own limit.
fn tmpfs_size(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: &Amounts) -> Option<i64> {
    let node = allocatable.get("memory").map(|amount| amount.value());
    let facts =
        NodeFacts { memory_capacity: 0, huge_page_sizes: vec![], swap_controller: false, pod_pids_limit: 0 };
    let of_pod = (cgroup::qos_class(pod) != QosClass::BestEffort)
        .then(|| cgroup::pod_config(pod, &facts).memory_max)
        .flatten();
    let own = source.size_limit.as_ref().map(|limit| Amount::of(limit).value());
    [node, of_pod, own].into_iter().flatten().filter(|size| *size > 0).min()
}

fn huge_page_sizes(pod: &Pod) -> Vec<u64> {
    let requests = cgroup::pod_requests(pod);
    let mut sizes: Vec<u64> = requests
        .keys()
        .filter_map(|name| Amount::parse(name.strip_prefix("hugepages-")?).ok())
        .map(|size| size.value().unsigned_abs())
        .collect();
    sizes.dedup();
    sizes
}

/// Makes the volume unless it is there already. `fs_group` applies only when it is made.
pub(super) fn set_up(dir: &Path, ready: &Path, medium: &Medium, fs_group: Option<u32>) -> io::Result<()> {
    let complete = ready.exists()
        && match medium {
            Medium::Disk => dir.is_dir(),
            Medium::Tmpfs(_) | Medium::HugePages(_) => is_mount_point(dir),
        };
    if complete {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    match medium {
        Medium::Disk => {}
        Medium::Tmpfs(size) => mount_tmpfs(dir, *size)?,
        Medium::HugePages(size) => {
            if !PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size >> 10)).exists() {
                return Err(io::Error::other(format!("the node has no huge pages of {size} bytes")));
            }
            mount_fs("hugetlbfs", dir, &format!("pagesize={size}"))?;
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    if let Some(group) = fs_group {
        super::ownership::set_group(dir, group, false)?;
    }
    mark_ready(ready)
}

/// Mounts a tmpfs at `dir` unless something is mounted there. Its pages are never swapped out where the kernel has that (6.4), so that
/// secrets do not reach a disk.
pub(super) fn mount_tmpfs(dir: &Path, size: Option<i64>) -> io::Result<()> {
    let size = size.map(|size| format!("size={size}")).unwrap_or_default();
    let noswap = if size.is_empty() { "noswap".to_owned() } else { format!("{size},noswap") };
    match mount_fs("tmpfs", dir, &noswap) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {
            mount_fs("tmpfs", dir, &size)
        }
        other => other,
    }
}

fn mount_fs(kind: &str, dir: &Path, options: &str) -> io::Result<()> {
    if is_mount_point(dir) {
        return Ok(());
    }
    let options = (!options.is_empty()).then_some(options);
    Ok(mount(Some(kind), dir, Some(kind), MsFlags::empty(), options)?)
}

/// Whether a file system of its own is mounted at `dir`. A bind mount of the same file system does not count.
pub(super) fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev());
    match (device(dir), dir.parent().map(device)) {
        (Ok(own), Some(Ok(parent))) => own != parent,
        _ => false,
    }
}

fn mark_ready(ready: &Path) -> io::Result<()> {
    if let Some(folder) = ready.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(ready, b"")
}
