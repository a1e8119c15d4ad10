//! Partition tables: making one, naming a partition, growing the last one. All of it blocks.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::{GptConfig, GptDisk};

/// Partitions begin and end on whole MiB.
const ALIGNMENT: u64 = 1 << 20;

/// Gives the disk a new table with one partition over all of it, and waits for the partition's device.
///
/// # Errors
/// When the disk cannot be written or the kernel does not show the partition.
pub fn make(disk: &Path, name: &str) -> Result<PathBuf> {
    let mut file = open(disk)?;
    let sector = sector(&file)?;
    let blocks = sys::block::size(&file)? / sector.as_u64();
    gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(blocks - 1).unwrap_or(u32::MAX))
        .overwrite_lba0(&mut file)
        .context("write the protective MBR")?;
    let mut table = config(sector).create_from_device(file, None).context("make a partition table")?;
    let per_mib = ALIGNMENT / sector.as_u64();
    let last = table.header().last_usable;
    let length = (last + 1) / per_mib * per_mib - per_mib;
    let kind = gpt::partition_types::LINUX_FS;
    table.add_partition_at(name, 1, per_mib, length, kind, 0).context("add the partition")?;
    write(table)?;
    wait_for_partition(disk, 1)
}

/// Adds a partition in the free space at the disk's end, and waits for its device. The disk's other partitions may be in use.
///
/// # Errors
/// When the table cannot be read or written, or the room is too small.
pub fn append(disk: &Path, name: &str) -> Result<PathBuf> {
    let mut table = table(disk)?;
    let size = sys::block::size(table.device_ref())?;
    let per_mib = ALIGNMENT / table.logical_block_size().as_u64();
    let mut partitions = table.partitions().clone();
    let start =
        partitions.values().map(|p| p.last_lba + 1).max().unwrap_or(per_mib).next_multiple_of(per_mib);
    let end = (size / ALIGNMENT * per_mib).saturating_sub(per_mib + 1);
    ensure!(end > start + 64 * per_mib, "{} has no room left for {name}", disk.display());
    let number = partitions.keys().max().map_or(1, |number| number + 1);
    let new = gpt::partition::Partition {
        part_type_guid: gpt::partition_types::LINUX_FS,
        part_guid: uuid::Uuid::new_v4(),
        first_lba: start,
        last_lba: end,
        flags: 0,
        name: name.into(),
    };
    partitions.insert(number, new);
    table.update_partitions(partitions)?;
    write(table)?;
    wait_for_partition(disk, number)
}

/// The names in the disk's table, by number. The kernel's own may be stale: it does not read a table anew while a partition is in use.
pub fn names(disk: &Path) -> BTreeMap<u32, String> {
    let read = || -> Result<BTreeMap<u32, String>> {
        let file = File::open(disk)?;
        let table = GptConfig::new().logical_block_size(sector(&file)?).open_from_device(file)?;
        Ok(table.partitions().iter().map(|(number, p)| (*number, p.name.clone())).collect())
    };
    read().unwrap_or_default()
}

/// Renames a partition.
///
/// # Errors
/// When the table cannot be read or written.
pub fn rename(disk: &Path, partition: &Path, name: &str) -> Result<()> {
    let (mut table, number) = (table(disk)?, number_of(partition)?);
    let mut partitions = table.partitions().clone();
    let entry = partitions.get_mut(&number).with_context(|| format!("no partition {number} in the table"))?;
    entry.name = name.into();
    table.update_partitions(partitions)?;
    write(table)
}

/// Lets the partition reach to the end of a disk that has become larger. Returns whether anything changed; only the last
/// partition grows.
///
/// # Errors
/// When the table cannot be read or written.
pub fn grow(disk: &Path, partition: &Path) -> Result<bool> {
    let (mut table, number) = (table(disk)?, number_of(partition)?);
    let size = sys::block::size(table.device_ref())?;
    let per_mib = ALIGNMENT / table.logical_block_size().as_u64();
    let end = size / ALIGNMENT * per_mib - per_mib - 1;
    let mut partitions = table.partitions().clone();
    let last = partitions.iter().max_by_key(|(_, p)| p.last_lba).map(|(number, _)| *number);
    let Some(entry) = partitions.get_mut(&number).filter(|_| last == Some(number)) else { return Ok(false) };
    // Less than 64 MiB is not worth rewriting a table.
    if entry.last_lba + 64 * per_mib >= end {
        return Ok(false);
    }
    entry.last_lba = end;
    table.update_partitions(partitions)?;
    write(table)?;
    Ok(true)
}

fn open(disk: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .with_context(|| format!("open {} for writing", disk.display()))
}

fn sector(file: &File) -> Result<LogicalBlockSize> {
    Ok(match sys::block::sector_size(file)? {
        4096 => LogicalBlockSize::Lb4096,
        512 => LogicalBlockSize::Lb512,
        other => bail!("sectors of {other} bytes are not supported"),
    })
}

fn config(sector: LogicalBlockSize) -> GptConfig {
    GptConfig::new().writable(true).logical_block_size(sector)
}

fn table(disk: &Path) -> Result<GptDisk<File>> {
    let file = open(disk)?;
    let sector = sector(&file)?;
    config(sector)
        .open_from_device(file)
        .with_context(|| format!("read the partition table of {}", disk.display()))
}

fn write(table: GptDisk<File>) -> Result<()> {
    let sector = table.logical_block_size().as_u64();
    let partitions = table.partitions().clone();
    let file = table.write().context("write the partition table")?;
    file.sync_all()?;
    match sys::block::reread_partitions(&file) {
        Ok(()) => Ok(()),
        // The root runs from this disk: the kernel is told of each partition that differs.
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
            for (number, p) in &partitions {
                let (start, length) = (p.first_lba * sector, (p.last_lba + 1 - p.first_lba) * sector);
                let known = sys::block::resize_partition(&file, *number, start, length);
                if known.is_err() {
                    sys::block::add_partition(&file, *number, start, length)
                        .with_context(|| format!("show the kernel partition {number}"))?;
                }
            }
            Ok(())
        }
        Err(error) => Err(error).context("make the kernel read the new partition table"),
    }
}

/// `vda4` is 4, `nvme0n1p2` is 2.
fn number_of(partition: &Path) -> Result<u32> {
    let name = partition.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let number = std::fs::read_to_string(format!("/sys/class/block/{name}/partition"))
        .with_context(|| format!("{name} is no partition"))?;
    number.trim().parse().with_context(|| format!("partition number of {name}"))
}

fn wait_for_partition(disk: &Path, number: u32) -> Result<PathBuf> {
    let name = disk.display().to_string();
    let infix = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    let path = PathBuf::from(format!("{name}{infix}{number}"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        ensure!(Instant::now() < deadline, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(path)
}
