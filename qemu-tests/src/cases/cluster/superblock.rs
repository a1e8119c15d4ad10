//! Whether a file system was unmounted: what its superblock says.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const SECTOR: u64 = 512;
/// First entry of the partition table.
const FIRST_ENTRY: u64 = 2 * SECTOR;
const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// `s_state`: unmounted in good order.
const CLEAN: u16 = 1;
/// `s_feature_incompat`: the journal holds what is not yet in its place.
const NEEDS_RECOVERY: u16 = 4;

/// Where a disk's first partition begins, in bytes.
pub fn first_partition(disk: &File) -> Result<u64> {
    let mut start = [0; 8];
    disk.read_exact_at(&mut start, FIRST_ENTRY + 32).context("read the partition table")?;
    Ok(u64::from_le_bytes(start) * SECTOR)
}

/// Checks that the ext4 file system of a disk's first partition was unmounted in good order.
pub fn is_clean(disk: &Path) -> Result<()> {
    let file = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    let superblock = first_partition(&file)? + SUPERBLOCK;
    let field = |offset: u64| -> Result<u16> {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, superblock + offset)?;
        Ok(u16::from_le_bytes(bytes))
    };
    ensure!(field(0x38)? == MAGIC, "no ext4 file system in the first partition of {}", disk.display());
    ensure!(field(0x3a)? == CLEAN, "the file system on {} was not unmounted", disk.display());
    ensure!(field(0x60)? & NEEDS_RECOVERY == 0, "the journal on {} needs to be replayed", disk.display());
    Ok(())
}
