//! Unmounting everything that could lose data.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use sys::mount::MountPoint;

use crate::task::blocking;

/// Kernel interfaces and memory: nothing of them outlives the boot.
const VIRTUAL: [&str; 16] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "ramfs",
    "rootfs",
    "cgroup2",
    "bpf",
    "tracefs",
    "debugfs",
    "securityfs",
    "mqueue",
    "hugetlbfs",
    "erofs",
    "nsfs",
];

/// Unmounts in reverse order, mounts on top first, in a few passes; what stays busy is remounted read-only and named.
///
/// # Errors
/// What could not be unmounted, and who uses it.
pub async fn all(deadline: Duration) -> Result<()> {
    blocking("unmount the file systems", deadline, || {
        for _ in 0..5 {
            let left = candidates(&sys::mount::mounts()?);
            if left.is_empty() {
                return Ok(());
            }
            for target in &left {
                let _ = sys::mount::unmount(target, false);
            }
        }
        let left = candidates(&sys::mount::mounts()?);
        if left.is_empty() {
            return Ok(());
        }
        for target in &left {
            let _ = sys::mount::remount_read_only(target);
        }
        let users = left.iter().flat_map(|target| users(target)).take(8).collect::<Vec<_>>();
        let names = left.iter().map(|t| t.display().to_string()).collect::<Vec<_>>();
        bail!("{} stays busy (used by {}); made read-only", names.join(", "), users.join(", "))
    })
    .await
}

fn candidates(mounts: &[MountPoint]) -> Vec<PathBuf> {
    let holds_data = |m: &&MountPoint| !VIRTUAL.contains(&m.fstype.as_str());
    // tmpfs and overlay mounts below a data mount keep that one busy.
    let below = |m: &&MountPoint, data: &[&MountPoint]| {
        data.iter().any(|d| m.target != d.target && m.target.starts_with(&d.target))
    };
    let data: Vec<&MountPoint> = mounts.iter().filter(holds_data).collect();
    let mut found: Vec<PathBuf> = mounts
        .iter()
        .filter(|m| m.target != Path::new("/") && (holds_data(m) || below(m, &data)))
        .map(|m| m.target.clone())
        .collect();
    found.reverse();
    found
}

/// Processes whose working directory, root or open files lie below a mount.
fn users(target: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter(|entry| {
            let links = ["cwd", "root", "exe"].map(|l| entry.path().join(l));
            let open =
                fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten().map(|e| e.path());
            links.into_iter().chain(open).any(|l| fs::read_link(l).is_ok_and(|to| to.starts_with(target)))
        })
        .map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("{} ({})", name.trim(), entry.file_name().to_string_lossy())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_with_everything_on_it_top_first_and_the_kernels_own_stays() {
        let mount = |target: &str, fstype: &str| MountPoint {
            target: target.into(),
            fstype: fstype.into(),
            source: String::new(),
        };
        let mounts = [
            mount("/", "erofs"),
            mount("/proc", "proc"),
            mount("/run", "tmpfs"),
            mount("/var", "ext4"),
            mount("/opt", "ext4"),
            mount("/var/lib/kubelet/pods/x/volumes/token", "tmpfs"),
        ];
        let expected = ["/var/lib/kubelet/pods/x/volumes/token", "/opt", "/var"].map(PathBuf::from);
        assert_eq!(candidates(&mounts), expected);
    }
}
