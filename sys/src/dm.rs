//! Device-mapper devices through the raw ioctls of /dev/mapper/control (include/uapi/linux/dm-ioctl.h).
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// `struct dm_ioctl`.
const HEADER: usize = 312;
/// `struct dm_target_spec`.
const TARGET: usize = 40;
const DM_READONLY_FLAG: u32 = 1;
const DEV_CREATE: u64 = 0xc138_fd03;
const DEV_REMOVE: u64 = 0xc138_fd04;
const DEV_SUSPEND: u64 = 0xc138_fd06;
const TABLE_LOAD: u64 = 0xc138_fd09;

/// The control node of the device mapper.
#[derive(Debug)]
pub struct DeviceMapper {
    control: File,
}

impl DeviceMapper {
    /// Opens /dev/mapper/control.
    ///
    /// # Errors
    /// When the node is missing (the module dm_mod is not loaded) or may not be opened.
    pub fn open() -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
        Ok(Self { control })
    }

    /// Makes a read-only device with one target over `sectors` sectors of 512 bytes, and returns its minor number: devtmpfs names
    /// it `/dev/dm-<minor>`. On failure nothing of it remains.
    ///
    /// # Errors
    /// As the ioctls, `EINVAL` for a table that the target refuses.
    pub fn create_read_only(
        &self,
        name: &str,
        sectors: u64,
        target: &str,
        parameters: &str,
    ) -> io::Result<u32> {
        let mut request = header(name, 0, HEADER);
        self.ioctl(DEV_CREATE, &mut request)?;
        let device = u64::from_ne_bytes(request[40..48].try_into().unwrap_or_default());
        let loaded = self
            .ioctl(TABLE_LOAD, &mut table(name, sectors, target, parameters))
            .and_then(|()| self.ioctl(DEV_SUSPEND, &mut header(name, DM_READONLY_FLAG, HEADER)));
        if let Err(error) = loaded {
            let _ = self.remove(name);
            return Err(error);
        }
        // huge_encode_dev: minor bits 0-7 and 20-31, major bits 8-19.
        Ok(((device & 0xff) | ((device >> 12) & 0xf_ff00)) as u32)
    }

    /// Removes a device that nobody uses.
    ///
    /// # Errors
    /// `EBUSY` while it is open or mounted, `ENXIO` when there is none of that name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.ioctl(DEV_REMOVE, &mut header(name, 0, HEADER))
    }

    fn ioctl(&self, request: u64, buffer: &mut [u8]) -> io::Result<()> {
        debug_assert!(buffer.len() >= HEADER);
        // SAFETY: the buffer is at least `struct dm_ioctl` long and its data_size field, written by `header`, is its exact length, so
        // the kernel reads and writes inside it only.
        let result = unsafe { nix::libc::ioctl(self.control.as_raw_fd(), request, buffer.as_mut_ptr()) };
        nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

/// A `struct dm_ioctl` in a buffer of `size` bytes.
fn header(name: &str, flags: u32, size: usize) -> Vec<u8> {
    let mut buffer = vec![0_u8; size];
    buffer[0..4].copy_from_slice(&4_u32.to_ne_bytes());
    buffer[12..16].copy_from_slice(&(size as u32).to_ne_bytes());
    buffer[16..20].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    buffer[28..32].copy_from_slice(&flags.to_ne_bytes());
    let name = &name.as_bytes()[..name.len().min(127)];
    buffer[48..48 + name.len()].copy_from_slice(name);
    buffer
}

fn table(name: &str, sectors: u64, target: &str, parameters: &str) -> Vec<u8> {
    let used = HEADER + TARGET + parameters.len() + 1;
    let mut buffer = header(name, DM_READONLY_FLAG, used.next_multiple_of(8));
    buffer[20..24].copy_from_slice(&1_u32.to_ne_bytes());
    let spec = &mut buffer[HEADER..];
    spec[8..16].copy_from_slice(&sectors.to_ne_bytes());
    let kind = &target.as_bytes()[..target.len().min(15)];
    spec[24..24 + kind.len()].copy_from_slice(kind);
    spec[TARGET..TARGET + parameters.len()].copy_from_slice(parameters.as_bytes());
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_length_target_and_parameters_where_the_kernel_looks() {
        let buffer = table("pintle-root", 2048, "verity", "1 a b");
        assert_eq!(buffer.len() % 8, 0);
        assert_eq!(u32::from_ne_bytes(buffer[12..16].try_into().unwrap()) as usize, buffer.len());
        assert_eq!(&buffer[48..59], b"pintle-root");
        assert_eq!(u64::from_ne_bytes(buffer[320..328].try_into().unwrap()), 2048);
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..358], b"1 a b\0");
    }
}
