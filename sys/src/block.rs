//! Questions and requests to block devices (ioctls of linux/fs.h).
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

const BLKRRPART: u64 = 0x125f;
const BLKGETSIZE64: u64 = 0x8008_1272;
const BLKSSZGET: u64 = 0x1268;

/// The device's size in bytes.
///
/// # Errors
/// `ENOTTY` for what is no block device.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the address given.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// The size of a logical sector in bytes.
///
/// # Errors
/// `ENOTTY` for what is no block device.
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to the address given.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &raw mut bytes) })?;
    Ok(bytes as u32)
}

/// Makes the kernel read the partition table again.
///
/// # Errors
/// `EBUSY` while a partition of the device is in use.
pub fn reread_partitions(device: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART) }).map(drop)?;
    Ok(())
}
