//! Loop devices (loop(4)).
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// `struct loop_config`: fd, block_size, `struct loop_info64` (232 bytes), 8 reserved words.
const CONFIG: usize = 8 + 232 + 64;
/// `lo_flags` in `struct loop_info64`.
const FLAGS: usize = 8 + 52;

/// Attaches the file at `path` to a free loop device, read-only, and returns the device's path. The device lasts until it is
/// detached; the file stays alive with it even when it is unlinked.
///
/// # Errors
/// When the file cannot be opened, the module `loop` is not loaded, or as the ioctls.
pub fn attach_read_only(path: &Path) -> io::Result<PathBuf> {
    let file = File::open(path)?;
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..8 {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
        let number = unsafe { nix::libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        let number = nix::errno::Errno::result(number)?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let handle = File::open(&device)?;
        let mut config = [0_u8; CONFIG];
        config[0..4].copy_from_slice(&(file.as_raw_fd() as u32).to_ne_bytes());
        config[4..8].copy_from_slice(&4096_u32.to_ne_bytes());
        config[FLAGS..FLAGS + 4].copy_from_slice(&LO_FLAGS_READ_ONLY.to_ne_bytes());
        // SAFETY: the buffer has the size of `struct loop_config`, every byte of it is initialised, and the kernel only reads it.
        let result = unsafe { nix::libc::ioctl(handle.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) };
        match nix::errno::Errno::result(result) {
            Ok(_) => return Ok(device),
            // Somebody else took it between the two calls.
            Err(nix::errno::Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}
