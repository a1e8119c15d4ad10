//! Opening paths of a container's root without ever leaving it (openat2(2), RESOLVE_IN_ROOT).
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Opens `path` read-only as a process whose root is `root` would, links included; devices and FIFOs do not block.
///
/// # Errors
/// As openat2(2).
pub fn open_in_root(root: &Path, path: &Path) -> io::Result<File> {
    let root = File::open(root)?;
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: open_how is a plain C struct for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: name and `how` outlive the call, and the size given is that of `how`.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            std::mem::size_of::<libc::open_how>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_cannot_leave_the_root() {
        let root = std::env::temp_dir().join(format!("pintle-beneath-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../etc/passwd", root.join("etc/passwd")).unwrap();
        let error = open_in_root(&root, Path::new("/etc/passwd")).unwrap_err();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
