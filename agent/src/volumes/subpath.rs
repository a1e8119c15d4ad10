//! A path beneath a volume as the source of a mount, whatever the volume's content does meanwhile.
//!
//! The kernel resolves the path beneath the volume's own descriptor and refuses links and dots that lead out (openat2(2),
//! RESOLVE_BENEATH); what it opened is then bound to a place of ours through its descriptor, so that a later exchange of a path
//! component changes nothing.
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat, mkdirat};

/// Whether a subPath may be used at all: relative, without `..`.
pub(super) fn validate(subpath: &str) -> Result<(), String> {
    let path = Path::new(subpath);
    if path.is_absolute() {
        return Err(format!("error SubPath `{subpath}` must not be an absolute path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{subpath}`: must not contain '..'"));
    }
    Ok(())
}

/// Opens `subpath` beneath `volume`, makes the directories that are missing with the volume's own mode, and binds what it is at
/// `target`. A target that shows the same file already is left alone.
pub(super) fn bind(volume: &Path, subpath: &Path, target: &Path) -> io::Result<()> {
    let base = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let source = open_or_make(&base, subpath)?;
    bind_fd(&source, target)
}

fn open_or_make(base: &OwnedFd, subpath: &Path) -> io::Result<OwnedFd> {
    match beneath(base, subpath) {
        Err(Errno::ENOENT) => {}
        other => return Ok(other?),
    }
    let mode = fstat(base.as_fd())?.st_mode & 0o7777;
    let mut done = PathBuf::new();
    let mut parent = beneath(base, Path::new("."))?;
    for part in subpath.components() {
        let Component::Normal(name) = part else { continue };
        done.push(name);
        match mkdirat(&parent, name, Mode::from_bits_truncate(mode & 0o777)) {
            // The umask and set-group-ID need a second call; a link put here in between is not followed.
            Ok(()) => fix_mode(&parent, name, mode)?,
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = beneath(base, &done)?;
    }
    Ok(parent)
}

fn fix_mode(parent: &OwnedFd, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let made = openat2(parent, name, how)?;
    fs::set_permissions(fd_path(&made), fs::Permissions::from_mode(mode))
}

fn beneath(base: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: a rename raced with a `..` inside a link; the kernel asks to try again.
    for _ in 0..64 {
        match openat2(base, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

fn bind_fd(source: &OwnedFd, target: &Path) -> io::Result<()> {
    let wanted = fs::metadata(fd_path(source))?;
    if let Ok(present) = fs::symlink_metadata(target) {
        if (present.dev(), present.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(());
        }
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
        if present.is_dir() != wanted.is_dir() {
            remove(target)?;
        }
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if wanted.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::write(target, b"")?;
    }
    Ok(mount(Some(&fd_path(source)), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

fn remove(target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(target)?.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) }
}

/// The link that stands for exactly this open file.
fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
