//! The disk image: GPT with the EFI system partition and two slots for the root. The state partition is made on first boot, in what
//! the disk has left.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fscommon::{BufStream, StreamSlice};
use gpt::partition::Partition;
use gpt::{GptConfig, mbr::ProtectiveMBR, partition_types};

use crate::digest;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// EFI system partition: two versions of the unified kernel image.
const ESP_BYTES: u64 = 256 * MIB;
/// One root slot.
const ROOT_BYTES: u64 = 512 * MIB;
/// Label of the slot that this image fills.
const LABELS: [(&str, u64); 3] =
    [("PINTLE-ESP", ESP_BYTES), ("PINTLE-ROOT-A", ROOT_BYTES), ("PINTLE-ROOT-B", ROOT_BYTES)];

/// Writes the disk image to `path`.
///
/// # Errors
/// When a part does not fit or the file cannot be written.
pub fn build(path: &Path, uki: &[u8], root: &Path, seed: &[u8]) -> Result<()> {
    let root_size = std::fs::metadata(root)?.len();
    ensure!(root_size <= ROOT_BYTES, "the root has {root_size} bytes, its slot {ROOT_BYTES}");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    let total = ESP_BYTES + 2 * ROOT_BYTES + 2 * MIB;
    file.set_len(total)?;
    let sectors = u32::try_from(total / SECTOR - 1)?;
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file).context("write the protective MBR")?;

    let mut disk =
        GptConfig::new().writable(true).create_from_device(&mut file, Some(digest::uuid(seed, "disk")))?;
    let partitions = partitions(seed)?;
    let start = |number: u32| partitions[&number].first_lba * SECTOR;
    let (esp, slot) = (start(1), start(2));
    disk.update_partitions(partitions)?;
    disk.write().context("write the partition table")?;

    let id = u32::from_le_bytes(seed.first_chunk::<4>().copied().unwrap_or_default());
    let slice = StreamSlice::new(&mut file, esp, esp + ESP_BYTES)?;
    crate::fat::format(BufStream::new(slice), id, &[("EFI/BOOT/BOOTX64.EFI", uki)])?;
    file.seek(SeekFrom::Start(slot))?;
    std::io::copy(&mut File::open(root)?, &mut file).context("write the root slot")?;
    Ok(file.flush()?)
}

fn partitions(seed: &[u8]) -> Result<BTreeMap<u32, Partition>> {
    let mut next = MIB / SECTOR;
    let mut table = BTreeMap::new();
    for (number, (label, bytes)) in (1_u32..).zip(LABELS) {
        let kind = if number == 1 { partition_types::EFI } else { partition_types::LINUX_ROOT_X64 };
        let last = next + bytes / SECTOR - 1;
        let guid = digest::uuid(seed, label);
        table.insert(
            number,
            Partition {
                part_type_guid: kind,
                part_guid: guid,
                first_lba: next,
                last_lba: last,
                flags: 0,
                name: label.into(),
            },
        );
        next = last + 1;
    }
    Ok(table)
}
