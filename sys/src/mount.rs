//! Mounting and unmounting (mount(2), umount2(2)) with errors that name what was mounted where.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, umount2};

/// A mount or unmount that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct MountError {
    operation: String,
    path: PathBuf,
    source: io::Error,
}

impl MountError {
    /// The errno, where the failure came from the kernel.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Mounts `source` of type `fstype` on `target`, which is created when it does not exist.
///
/// # Errors
/// As mount(2), or when the mount point cannot be created.
pub fn mount(
    source: &str,
    target: impl AsRef<Path>,
    fstype: &str,
    flags: MsFlags,
    data: &str,
) -> Result<(), MountError> {
    let target = target.as_ref();
    let fail = |source: io::Error| MountError {
        operation: format!("mount {fstype} on"),
        path: target.into(),
        source,
    };
    if !target.is_dir() {
        fs::create_dir_all(target).map_err(fail)?;
    }
    nix::mount::mount(Some(source), target, Some(fstype), flags, Some(data)).map_err(|e| fail(e.into()))
}

/// Makes `source` appear at `target` too.
///
/// # Errors
/// As mount(2) with `MS_BIND`.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), MountError> {
    change(Some(source.as_ref()), target.as_ref(), MsFlags::MS_BIND, "bind mount on")
}

/// Moves the mount at `source` to `target`.
///
/// # Errors
/// As mount(2) with `MS_MOVE`.
pub fn move_to(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), MountError> {
    change(Some(source.as_ref()), target.as_ref(), MsFlags::MS_MOVE, "move mount to")
}

/// Makes every mount below `/` a shared peer, so that mounts made in containers propagate where they ask for it.
///
/// # Errors
/// As mount(2) with `MS_SHARED`.
pub fn share_all() -> Result<(), MountError> {
    change(None, Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC, "share mounts below")
}

/// Makes a folder a mount of its own, unless it is one, from which no mount goes elsewhere.
///
/// # Errors
/// As mount(2), or when the mounts cannot be read.
pub fn make_private(folder: impl AsRef<Path>) -> Result<(), MountError> {
    let folder = folder.as_ref();
    let known = mounts().map_err(|source| MountError {
        operation: "look up mounts at".into(),
        path: folder.into(),
        source,
    })?;
    if !known.iter().any(|mount| mount.target == folder) {
        bind(folder, folder)?;
    }
    change(None, folder, MsFlags::MS_PRIVATE, "make private")
}

/// Makes the file system mounted at `target` read-only.
///
/// # Errors
/// As mount(2) with `MS_REMOUNT`.
pub fn remount_read_only(target: impl AsRef<Path>) -> Result<(), MountError> {
    change(None, target.as_ref(), MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "remount read-only")
}

fn change(source: Option<&Path>, target: &Path, flags: MsFlags, operation: &str) -> Result<(), MountError> {
    nix::mount::mount(source, target, None::<&str>, flags, None::<&str>).map_err(|e| MountError {
        operation: operation.into(),
        path: target.into(),
        source: e.into(),
    })
}

/// Unmounts `target`; `lazy` takes it out of the tree at once and lets it end with its last user.
///
/// # Errors
/// As umount2(2).
pub fn unmount(target: impl AsRef<Path>, lazy: bool) -> Result<(), MountError> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    umount2(target.as_ref(), flags).map_err(|e| MountError {
        operation: "unmount".into(),
        path: target.as_ref().into(),
        source: e.into(),
    })
}

/// A line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    pub target: PathBuf,
    pub fstype: String,
    pub source: String,
}

/// The mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// When /proc/self/mountinfo cannot be read.
pub fn mounts() -> io::Result<Vec<MountPoint>> {
    Ok(parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse_mountinfo(text: &str) -> Vec<MountPoint> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let target = before.split(' ').nth(4)?;
            let mut after = after.split(' ');
            Some(MountPoint {
                target: PathBuf::from(unescape(target)),
                fstype: after.next()?.into(),
                source: unescape(after.next()?),
            })
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_keep_odd_paths() {
        let text = "22 1 254:0 / /var/a\\040b rw,relatime shared:1 - ext4 /dev/vda1 rw\nnonsense\n";
        let expected =
            MountPoint { target: "/var/a b".into(), fstype: "ext4".into(), source: "/dev/vda1".into() };
        assert_eq!(parse_mountinfo(text), [expected]);
    }
}
