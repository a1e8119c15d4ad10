//! Detached copies of mount trees (open_tree(2), mount_setattr(2), move_mount(2)): everything about a mount is settled before anybody can see it.
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// How mounts made elsewhere in the same tree come and go here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing comes, nothing goes.
    Private,
    /// Mounts made at the source come here.
    Slave,
    /// They come here, and those made here go there. The source must be shared.
    Shared,
}

/// A mount tree that is attached nowhere; dropping it undoes it.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tree {
    /// Copies what is mounted at `source`, links followed; with what is mounted below it.
    ///
    /// # Errors
    /// As open_tree(2).
    pub fn copy(source: &Path) -> io::Result<Self> {
        let path = CString::new(source.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
        // SAFETY: the path is a C string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sets how mounts propagate, for the whole tree.
    ///
    /// # Errors
    /// As mount_setattr(2).
    pub fn propagate(&self, propagation: Propagation) -> io::Result<()> {
        let propagation = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
        };
        self.set(libc::AT_RECURSIVE, libc::mount_attr { propagation, ..empty() })
    }

    /// Makes the whole tree read-only.
    ///
    /// # Errors
    /// As mount_setattr(2); `EINVAL` on kernels before 5.12.
    pub fn read_only(&self) -> io::Result<()> {
        self.set(libc::AT_RECURSIVE, libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, ..empty() })
    }

    /// Makes the mount on top read-only, and none of those below it.
    ///
    /// # Errors
    /// As mount_setattr(2).
    pub fn read_only_itself(&self) -> io::Result<()> {
        self.set(0, libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, ..empty() })
    }

    /// Maps the owners of files by the id maps of a user namespace, for the whole tree.
    ///
    /// # Errors
    /// As mount_setattr(2); `EINVAL` when a file system in it cannot.
    pub fn map_ids(&self, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
        let userns_fd = user_namespace.as_raw_fd() as u64;
        let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..empty() };
        self.set(libc::AT_RECURSIVE, attributes)
    }

    fn set(&self, flags: libc::c_int, attributes: libc::mount_attr) -> io::Result<()> {
        set(self.0.as_raw_fd(), c"", flags | libc::AT_EMPTY_PATH, attributes)
    }

    /// Attaches it on an existing file or folder.
    ///
    /// # Errors
    /// As move_mount(2).
    pub fn attach(self, target: &Path) -> io::Result<()> {
        let target = CString::new(target.as_os_str().as_bytes())?;
        self.attach_at(libc::AT_FDCWD, &target, 0)
    }

    /// Attaches it on what an open file or folder is.
    ///
    /// # Errors
    /// As move_mount(2).
    pub fn attach_on(self, target: BorrowedFd<'_>) -> io::Result<()> {
        self.attach_at(target.as_raw_fd(), c"", libc::MOVE_MOUNT_T_EMPTY_PATH)
    }

    fn attach_at(self, folder: i32, target: &std::ffi::CStr, flags: libc::c_uint) -> io::Result<()> {
        // SAFETY: both descriptors are open (or AT_FDCWD) and both paths are C strings that outlive the call; empty ones go with their flags.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                folder,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | flags,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Makes the mount at `path` and all below it private.
///
/// # Errors
/// As mount_setattr(2); nothing mounted there is no error.
pub fn make_private(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr { propagation: libc::MS_PRIVATE, ..empty() };
    match set(libc::AT_FDCWD, &path, libc::AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW, attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

fn set(
    folder: i32,
    path: &std::ffi::CStr,
    flags: libc::c_int,
    attributes: libc::mount_attr,
) -> io::Result<()> {
    // SAFETY: the descriptor is open (or AT_FDCWD), the path is a C string, and `attributes` is of the size given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder,
            path.as_ptr(),
            flags,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const fn empty() -> libc::mount_attr {
    libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 }
}
