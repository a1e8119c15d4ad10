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

const BLKPG: u64 = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Shows the kernel a partition (`start` and `length` in bytes) that it does not know yet, of a disk whose other partitions may be in use.
///
/// # Errors
/// `EBUSY` when it overlaps one that the kernel knows.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    partition(disk, BLKPG_ADD_PARTITION, number, start, length)
}

/// Tells the kernel a partition's new length.
///
/// # Errors
/// `ENXIO` when it knows no such partition.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    partition(disk, BLKPG_RESIZE_PARTITION, number, start, length)
}

fn partition(disk: &File, operation: libc::c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let signed = |value: u64| libc::c_longlong::try_from(value).map_err(io::Error::other);
    let number = libc::c_int::try_from(number).map_err(io::Error::other)?;
    let mut data = BlkpgPartition { start: signed(start)?, length: signed(length)?, number, names: [0; 128] };
    let size = size_of::<BlkpgPartition>() as libc::c_int;
    let argument = BlkpgArgument { operation, flags: 0, length: size, data: &raw mut data };
    // SAFETY: BLKPG reads one blkpg_ioctl_arg and the blkpg_partition it points to; both outlive the call.
    Errno::result(unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const argument) }).map(drop)?;
    Ok(())
}
