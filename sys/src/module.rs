//! Loading kernel modules (finit_module(2)).
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The kernel decompresses the file itself (Linux 5.17, `CONFIG_MODULE_DECOMPRESS`).
const MODULE_INIT_COMPRESSED_FILE: nix::libc::c_int = 4;

/// Loads the module file at `path`; a module that is loaded already is no error.
///
/// # Errors
/// When the file cannot be opened, or as finit_module(2).
pub fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let compressed = path.extension().is_some_and(|e| e == "xz" || e == "zst" || e == "gz");
    let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
    // SAFETY: the descriptor is open for the length of the call, the parameter string is NUL-terminated and static, and the kernel
    // keeps neither.
    let result =
        unsafe { nix::libc::syscall(nix::libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
