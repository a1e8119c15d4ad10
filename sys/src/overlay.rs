//! Overlay mounts by the mount API of file descriptors (fsopen(2)): any number of layers, and paths of any length.
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// Mounts an overlay at `target`: `lower` topmost first; without `upper` and `work` it is read-only.
///
/// # Errors
/// As fsopen(2), fsconfig(2), fsmount(2) and move_mount(2).
pub fn mount(lower: &[impl AsRef<Path>], upper: Option<(&Path, &Path)>, target: &Path) -> io::Result<()> {
    let context = open_context(c"overlay")?;
    set(&context, c"source", c"overlay")?;
    for layer in lower {
        set(&context, c"lowerdir+", &path(layer.as_ref())?)?;
    }
    if let Some((upper, work)) = upper {
        set(&context, c"upperdir", &path(upper)?)?;
        set(&context, c"workdir", &path(work)?)?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None)?;
    attach(&context, &path(target)?)
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn open_context(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1) })
}

fn set(context: &OwnedFd, key: &CStr, value: &CStr) -> io::Result<()> {
    configure(context, FSCONFIG_SET_STRING, Some((key, value)))
}

fn configure(context: &OwnedFd, command: u32, pair: Option<(&CStr, &CStr)>) -> io::Result<()> {
    let (key, value) =
        pair.map_or((std::ptr::null(), std::ptr::null()), |(key, value)| (key.as_ptr(), value.as_ptr()));
    // SAFETY: key and value are null or C strings that outlive the call; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attach(context: &OwnedFd, target: &CStr) -> io::Result<()> {
    // SAFETY: fsmount takes three integers.
    let mount = owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    // SAFETY: both paths are C strings that outlive the call; the empty one goes with MOVE_MOUNT_F_EMPTY_PATH.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}
