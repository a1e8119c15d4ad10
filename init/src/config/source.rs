//! Places a machine config may come from, in the order in which they are asked.
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::paths;
use nix::mount::MsFlags;

use super::LONGEST;
use crate::cmdline;
use crate::disk::{Content, Device};
use crate::network::config_url::{Variables, expand};
use crate::node::Machine;
use crate::reader::Found;

/// How long a server may take to come up before the other sources are asked.
const FETCH_DEADLINE: Duration = Duration::from_secs(120);
const IN_IMAGE: &str = "/usr/lib/pintle/config.yaml";
/// The most of the SMBIOS tables that is read, in bytes.
const SMBIOS_TABLE: u64 = 4 << 20;
const VOLUME_MOUNT: &str = "/run/pintle/config-volume";
/// Names of the file on a volume: ours, and cloud-init's NoCloud.
const VOLUME_FILES: [&str; 2] = ["config.yaml", "user-data"];

/// The config that survives reboots, if there is one. The state volume must be mounted.
///
/// # Errors
/// When it is there and cannot be read.
pub fn from_state() -> Result<Option<Found>> {
    read(Path::new(paths::STATE_CONFIG), "state")
}

/// The config that was kept before that one.
///
/// # Errors
/// When it is there and cannot be read.
pub fn from_previous() -> Result<Option<Found>> {
    read(Path::new(super::persist::PREVIOUS), "state, the one before")
}

/// The config in the image.
///
/// # Errors
/// When it is there and cannot be read.
pub fn from_image() -> Result<Option<Found>> {
    read(Path::new(IN_IMAGE), "image")
}

/// The config in the firmware's configuration device.
///
/// # Errors
/// When it is there and cannot be read.
pub fn from_firmware() -> Result<Option<Found>> {
    let item = format!("/sys/firmware/qemu_fw_cfg/by_name/{}/raw", paths::FW_CFG_CONFIG);
    read(Path::new(&item), "fw_cfg")
}

/// The config in an OEM string of the firmware's SMBIOS tables.
///
/// # Errors
/// When it is there and is no text.
pub fn from_smbios() -> Result<Option<Found>> {
    let Ok(file) = File::open("/sys/firmware/dmi/tables/DMI") else { return Ok(None) };
    let mut table = Vec::new();
    file.take(SMBIOS_TABLE).read_to_end(&mut table).context("read the SMBIOS tables")?;
    let Some(bytes) = super::smbios::find(&table).filter(|bytes| bytes.len() as u64 <= LONGEST) else {
        return Ok(None);
    };
    let yaml = String::from_utf8(bytes).context("the config in SMBIOS is no text")?;
    Ok(Some(Found { yaml, source: "smbios".into() }))
}

/// Fetches the config from a URL through the net process; `${mac}` and the like are this machine's.
///
/// # Errors
/// When it cannot be fetched.
pub async fn fetch(machine: &Machine, url: &str) -> Result<Found> {
    let hostname = machine.network.borrow().hostname.clone();
    let variables = Variables::read(Path::new("/sys"), &hostname);
    let url = expand(url, &variables).map_err(anyhow::Error::msg)?;
    let yaml = machine.net.fetch_config(&url, None, FETCH_DEADLINE).await.map_err(anyhow::Error::msg)?;
    let yaml = String::from_utf8(yaml).with_context(|| format!("{url} is no text"))?;
    Ok(Found { yaml, source: "cmdline".into() })
}

/// The URL on the kernel command line.
pub fn url() -> Option<String> {
    cmdline::value(&cmdline::read(), paths::CMDLINE_CONFIG)
}

/// The config on a volume with one of the labels. It mounts, reads and unmounts: call it on a thread.
///
/// # Errors
/// When a volume has the label and cannot be read.
pub fn from_volumes(devices: &[Device]) -> Result<Option<Found>> {
    for label in paths::CONFIG_VOLUME_LABELS {
        let labelled = |d: &&Device| d.content.label().is_some_and(|l| l.eq_ignore_ascii_case(label));
        for device in devices.iter().filter(labelled) {
            let fstype = match device.content {
                Content::Ext4 { .. } => "ext4",
                Content::Vfat { .. } => "vfat",
                Content::Iso9660 { .. } => "iso9660",
                Content::Blank | Content::Other(_) => continue,
            };
            if let Some(found) = from_volume(device, fstype, label)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn from_volume(device: &Device, fstype: &str, label: &str) -> Result<Option<Found>> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let source = device.path().display().to_string();
    // A dirty journal must not make us write to somebody's volume.
    let data = if fstype == "ext4" { "noload" } else { "" };
    sys::mount::mount(&source, VOLUME_MOUNT, fstype, flags, data)?;
    let found = VOLUME_FILES
        .iter()
        .find_map(|name| read(&Path::new(VOLUME_MOUNT).join(name), &format!("volume {label}")).transpose());
    if let Err(error) = sys::mount::unmount(VOLUME_MOUNT, true) {
        tracing::warn!("{error}");
    }
    found.transpose()
}

fn read(path: &Path, source: &str) -> Result<Option<Found>> {
    // Never through a link: the volume is somebody else's.
    match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_file() => {}
        Ok(_) => anyhow::bail!("{} is no regular file", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("look for {}", path.display())),
    }
    let mut yaml = String::new();
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(LONGEST + 1).read_to_string(&mut yaml).with_context(|| format!("read {}", path.display()))?;
    ensure!(yaml.len() as u64 <= LONGEST, "{} is larger than 1 MiB", path.display());
    Ok(Some(Found { yaml, source: source.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_read_as_a_plain_file_of_bounded_size_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        assert_eq!(read(&path, "x").unwrap(), None);
        fs::write(&path, "kind: Machine\n").unwrap();
        assert_eq!(read(&path, "x").unwrap().unwrap().yaml, "kind: Machine\n");
        let link = folder.path().join("user-data");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(read(&link, "x").is_err());
        fs::write(&path, vec![b' '; LONGEST as usize + 1]).unwrap();
        assert!(read(&path, "x").is_err());
    }
}
