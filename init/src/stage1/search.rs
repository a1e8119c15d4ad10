//! Where the root image may lie: any disk or partition, a file of an ISO, a file of the initramfs.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::verity::RootSpec;

const INITRAMFS_FILE: &str = "/root.img";
const ISO_FILE: &str = "pintle/root.img";
const ISO_MOUNT: &str = "/run/iso";
const EROFS_SUPERBLOCK: u64 = 1024;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
const ISO_DESCRIPTOR: u64 = 32 << 10;

/// A search in passes, since devices appear late.
#[derive(Debug, Default)]
pub struct Search {
    seen: BTreeSet<String>,
    refused: Vec<PathBuf>,
    isos_opened: BTreeSet<String>,
    initramfs_tried: bool,
}

impl Search {
    /// Looks at everything that is there now and returns the block device of the first candidate that was not refused.
    pub fn pass(&mut self, spec: &RootSpec) -> Option<PathBuf> {
        if !self.initramfs_tried {
            self.initramfs_tried = true;
            if has_uuid(Path::new(INITRAMFS_FILE), spec).unwrap_or(false)
                && let Some(device) = attach(Path::new(INITRAMFS_FILE))
            {
                return Some(device);
            }
        }
        for name in block_devices() {
            let device = Path::new("/dev").join(&name);
            self.seen.insert(name.clone());
            if self.refused.contains(&device) {
                continue;
            }
            if has_uuid(&device, spec).unwrap_or(false) {
                return Some(device);
            }
            if !self.isos_opened.contains(&name)
                && is_iso(&device).unwrap_or(false)
                && let Some(device) = self.open_iso(&name, spec)
            {
                return Some(device);
            }
        }
        None
    }

    /// Leaves this device out of later passes.
    pub fn refuse(&mut self, device: PathBuf) {
        self.refused.push(device);
    }

    /// The devices looked at, for people.
    pub fn seen(&self) -> String {
        if self.seen.is_empty() {
            return "no block device (is the disk's driver in the image?)".into();
        }
        self.seen.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn open_iso(&mut self, name: &str, spec: &RootSpec) -> Option<PathBuf> {
        let source = format!("/dev/{name}");
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        if let Err(error) = sys::mount::mount(&source, ISO_MOUNT, "iso9660", flags, "") {
            tracing::warn!("{source} looks like an ISO: {error:#}");
            return None;
        }
        self.isos_opened.insert(name.to_owned());
        let file = Path::new(ISO_MOUNT).join(ISO_FILE);
        let device = has_uuid(&file, spec).unwrap_or(false).then(|| attach(&file)).flatten();
        // The loop device keeps the file, and with it the file system, alive.
        if let Err(error) = sys::mount::unmount(ISO_MOUNT, true) {
            tracing::warn!("{error}");
        }
        device
    }
}

fn attach(file: &Path) -> Option<PathBuf> {
    sys::loop_device::attach_read_only(file)
        .inspect_err(|error| tracing::warn!("attach {} to a loop device: {error}", file.display()))
        .ok()
}

/// Disks and partitions; loop and device-mapper devices are ours, RAM disks hold nothing.
fn block_devices() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !["loop", "dm-", "ram", "zram", "fd"].iter().any(|p| name.starts_with(p)))
        .collect();
    names.sort();
    names
}

fn has_uuid(path: &Path, spec: &RootSpec) -> io::Result<bool> {
    let mut superblock = [0_u8; 64];
    File::open(path)?.read_exact_at(&mut superblock, EROFS_SUPERBLOCK)?;
    Ok(superblock[..4] == EROFS_MAGIC && superblock[48..64] == *spec.uuid.as_bytes())
}

fn is_iso(path: &Path) -> io::Result<bool> {
    let mut descriptor = [0_u8; 6];
    File::open(path)?.read_exact_at(&mut descriptor, ISO_DESCRIPTOR)?;
    Ok(descriptor[1..] == *b"CD001")
}
