//! The block devices of this machine, as sysfs and their own first blocks tell.
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::probe::{Content, HEAD, probe};

/// How much of a disk's end must be blank too: backup tables and RAID superblocks lie there.
const TAIL: u64 = 1 << 20;

/// A disk or partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Such as `vda` or `vda1`.
    pub name: String,
    /// The disk, for a partition.
    pub parent: Option<String>,
    /// In bytes.
    pub size: u64,
    pub removable: bool,
    pub read_only: bool,
    /// Its name in the GPT.
    pub partition_name: String,
    pub serial: String,
    pub model: String,
    /// Names below /dev/disk/by-id.
    pub ids: Vec<String>,
    pub content: Content,
}

impl Device {
    /// Its device node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// Every disk and partition that can be read, by name. Loop, device-mapper and RAM devices are left out. It reads disks: call it on
/// a thread that may hang.
pub fn scan() -> Vec<Device> {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !["loop", "dm-", "ram", "zram", "fd", "md"].iter().any(|p| name.starts_with(p)))
        .collect();
    names.sort();
    let mut devices: Vec<Device> = names.into_iter().filter_map(|name| device(&name)).collect();
    let disks: std::collections::BTreeSet<String> = devices.iter().filter_map(|d| d.parent.clone()).collect();
    for disk in disks {
        let names = super::partition::names(&Path::new("/dev").join(&disk));
        for part in devices.iter_mut().filter(|d| d.parent.as_ref() == Some(&disk)) {
            if let Some(name) = number(&part.name).and_then(|number| names.get(&number)) {
                part.partition_name.clone_from(name);
            }
        }
    }
    devices
}

fn number(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/block/{name}/partition")).ok()?.trim().parse().ok()
}

fn device(name: &str) -> Option<Device> {
    let folder = fs::canonicalize(Path::new("/sys/class/block").join(name)).ok()?;
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned();
    let is_partition = folder.join("partition").exists();
    let parent = || Some(folder.parent()?.file_name()?.to_str()?.to_owned());
    let file = File::open(Path::new("/dev").join(name)).ok()?;
    let size = sys::block::size(&file).ok()?;
    let first = |files: [&str; 2]| files.into_iter().map(read).find(|text| !text.is_empty());
    let uevent = read("uevent");
    let page = || super::id::serial_of_page(&fs::read(folder.join("device/vpd_pg80")).ok()?);
    let serial = first(["serial", "device/serial"]).or_else(page).unwrap_or_default();
    let model = first(["device/model", "device/name"]).unwrap_or_default();
    let wwid = first(["wwid", "device/wwid"]).unwrap_or_default();
    let facts = super::id::Facts { name, serial: &serial, model: &model, wwid: &wwid };
    let ids = if is_partition { Vec::new() } else { super::id::by_id(&facts) };
    Some(Device {
        name: name.to_owned(),
        parent: if is_partition { parent() } else { None },
        size,
        removable: read("removable") == "1",
        read_only: read("ro") == "1",
        partition_name: uevent
            .lines()
            .find_map(|line| line.strip_prefix("PARTNAME="))
            .unwrap_or_default()
            .to_owned(),
        serial,
        model,
        ids,
        content: content(&file, size).unwrap_or(Content::Other("what cannot be read")),
    })
}

fn content(file: &File, size: u64) -> io::Result<Content> {
    let mut head = vec![0; HEAD.min(size as usize)];
    file.read_exact_at(&mut head, 0)?;
    let found = probe(&head);
    if found == Content::Blank && size > 0 && !is_blank_elsewhere(file, size)? {
        return Ok(Content::Other("data behind blank first blocks"));
    }
    Ok(found)
}

/// The first megabytes, the end, and samples in between.
fn is_blank_elsewhere(file: &File, size: u64) -> io::Result<bool> {
    let mut piece = vec![0; 64 << 10];
    let mut blank = |offset: u64| {
        let length = piece.len().min(size.saturating_sub(offset) as usize);
        file.read_exact_at(&mut piece[..length], offset)?;
        let same = |value: u8| piece[..length].iter().all(|b| *b == value);
        Ok::<bool, io::Error>(same(0) || same(0xff))
    };
    let start = (0..64).map(|n| n * (64 << 10));
    let end = (0..TAIL / (64 << 10)).map(|n| size.saturating_sub(TAIL) / 512 * 512 + n * (64 << 10));
    let between = (1..32).map(|n| size / 32 * n / 4096 * 4096);
    for offset in start.chain(end).chain(between).filter(|offset| *offset < size) {
        if !blank(offset)? {
            return Ok(false);
        }
    }
    Ok(true)
}
