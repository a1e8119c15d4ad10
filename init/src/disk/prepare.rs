//! From a chosen disk or partition to a mounted ext4.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::MsFlags;

use super::choose::HALF_MADE;
use super::partition;
use super::probe::{Content, HEAD, probe};
use crate::children::Children;
use crate::task::blocking;

const TABLE_DEADLINE: Duration = Duration::from_secs(60);
const FORMAT_DEADLINE: Duration = Duration::from_secs(600);
const CHECK_DEADLINE: Duration = Duration::from_secs(1800);
const MOUNT_DEADLINE: Duration = Duration::from_secs(120);
/// e2fsck's exit bits that leave a usable file system: nothing, errors corrected.
const CHECKED: [i32; 3] = [0, 1, 2];

/// Gives a disk one partition of the name with a file system; returns the partition.
///
/// # Errors
/// What failed; the next boot begins anew, since the partition has its name only at the end.
pub async fn prepare_disk(children: &Children, disk: &Path, name: &str) -> Result<PathBuf> {
    let made = {
        let disk = disk.to_owned();
        blocking("partition the disk", TABLE_DEADLINE, move || partition::make(&disk, HALF_MADE)).await?
    };
    format_and_name(children, disk, &made, name).await?;
    Ok(made)
}

/// Adds a partition of the name with a file system to a disk that holds others; returns it.
///
/// # Errors
/// As [`prepare_disk`].
pub async fn append_partition(children: &Children, disk: &Path, name: &str) -> Result<PathBuf> {
    let made = {
        let disk = disk.to_owned();
        blocking("add a partition", TABLE_DEADLINE, move || partition::append(&disk, HALF_MADE)).await?
    };
    format_and_name(children, disk, &made, name).await?;
    Ok(made)
}

/// Gives a partition that is ours and blank its file system.
///
/// # Errors
/// As [`prepare_disk`].
pub async fn prepare_partition(children: &Children, disk: &Path, part: &Path, name: &str) -> Result<()> {
    rename(disk, part, HALF_MADE).await?;
    format_and_name(children, disk, part, name).await
}

async fn format_and_name(children: &Children, disk: &Path, part: &Path, name: &str) -> Result<()> {
    let device = part.display().to_string();
    let arguments =
        ["-F", "-q", "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-L", "", &device];
    let label = name.to_ascii_lowercase();
    let label = &label[..label.len().min(16)];
    let arguments = arguments.map(|a| if a.is_empty() { label } else { a });
    let (code, output) = children.run_tool("/usr/sbin/mkfs.ext4", &arguments, FORMAT_DEADLINE).await?;
    if code != 0 {
        bail!("mkfs.ext4 {device}: exit code {code}: {output}");
    }
    rename(disk, part, name).await
}

async fn rename(disk: &Path, part: &Path, name: &str) -> Result<()> {
    let (disk, part, name) = (disk.to_owned(), part.to_owned(), name.to_owned());
    blocking("name the partition", TABLE_DEADLINE, move || partition::rename(&disk, &part, &name)).await
}

/// Checks and mounts an ext4 partition, and lets it grow with its disk.
///
/// # Errors
/// When it cannot be repaired without a person or not be mounted; growing is tried and its failure only said.
pub async fn mount_ext4(children: &Children, part: &Path, target: &str) -> Result<()> {
    let grown = {
        let part = part.to_owned();
        blocking("grow the partition", TABLE_DEADLINE, move || match disk_of(&part) {
            Some(disk) => partition::grow(&disk, &part),
            None => Ok(false),
        })
        .await
    };
    if let Err(error) = grown {
        tracing::warn!("{} does not grow: {error:#}", part.display());
    }
    let device = part.display().to_string();
    let (code, output) = children.run_tool("/usr/sbin/e2fsck", &["-p", &device], CHECK_DEADLINE).await?;
    if code != 0 {
        tracing::warn!("e2fsck {device}: {output}");
    }
    if !CHECKED.contains(&code) {
        bail!("e2fsck -p {device}: exit code {code}: {output}; the file system needs a person");
    }
    let (source, target) = (device.clone(), target.to_owned());
    blocking("mount the file system", MOUNT_DEADLINE, move || {
        let flags = MsFlags::MS_NOATIME;
        Ok(sys::mount::mount(&source, &target, "ext4", flags, "errors=remount-ro")?)
    })
    .await
    .with_context(|| format!("mount {device}"))?;
    let part = part.to_owned();
    if blocking("compare sizes", TABLE_DEADLINE, move || is_smaller_than_device(&part)).await.unwrap_or(false)
    {
        let (code, output) = children.run_tool("/usr/sbin/resize2fs", &[&device], CHECK_DEADLINE).await?;
        match code {
            0 => tracing::info!("{device} has grown to its whole partition"),
            _ => tracing::warn!("resize2fs {device}: exit code {code}: {output}"),
        }
    }
    Ok(())
}

fn is_smaller_than_device(part: &Path) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(part)?;
    let mut head = vec![0; HEAD];
    file.read_exact_at(&mut head, 0)?;
    let Content::Ext4 { size, .. } = probe(&head) else { return Ok(false) };
    Ok(size + (64 << 20) < sys::block::size(&file)?)
}

fn disk_of(part: &Path) -> Option<PathBuf> {
    let folder = std::fs::canonicalize(Path::new("/sys/class/block").join(part.file_name()?)).ok()?;
    if !folder.join("partition").exists() {
        return None;
    }
    Some(Path::new("/dev").join(folder.parent()?.file_name()?))
}
