//! EFI system partitions.
use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result};
use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

/// FAT's first day: every file has it.
#[derive(Debug)]
struct Epoch;

const EPOCH: Date = Date { year: 1980, month: 1, day: 1 };

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        EPOCH
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: EPOCH, time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// Formats `volume` and writes the files (path, content) into it.
///
/// # Errors
/// When the volume is too small or cannot be written.
pub fn format<V: Read + Write + Seek>(mut volume: V, id: u32, files: &[(&str, &[u8])]) -> Result<()> {
    let options = FormatVolumeOptions::new().volume_id(id).volume_label(*b"PINTLE-ESP ");
    fatfs::format_volume(&mut volume, options).context("format the EFI system partition")?;
    volume.seek(SeekFrom::Start(0))?;
    let file_system =
        FileSystem::new(volume, FsOptions::new().time_provider(&Epoch).update_accessed_date(false))?;
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            file_system.root_dir().create_dir(&path[..at])?;
        }
        let mut file = file_system.root_dir().create_file(path)?;
        file.write_all(content).with_context(|| format!("write {path} to the EFI system partition"))?;
        file.flush()?;
    }
    Ok(file_system.unmount()?)
}
