//! The file systems of `Volume` documents. Services that keep data start once all are mounted: what they wrote below a mount point before would
//! be hidden by the mount, and a database would begin anew beside its data.
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use machine::config::Volume;
use machine::paths;

use crate::disk::{self, Choice, Device};
use crate::node::Machine;
use crate::task::blocking;

/// How long looking into a folder may take on a sick disk.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);
/// What is made anew where it is missing: a fresh volume may hide it.
const CACHES: [&str; 4] = [paths::SERVICE_LOGS, paths::POD_LOGS, paths::CONTAINER_LOGS, paths::RUNTIME_STATE];
/// Made by mkfs.ext4.
const LOST_AND_FOUND: &str = "lost+found";

/// What became of a volume in this round.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Mounted,
    /// What it waits for.
    Waits(String),
}

/// Mounts each volume that can be, those above others first. `Some` tells what each of the others waits for; so does the condition
/// `VolumesMounted`. Once all are mounted, services are told, and nothing is mounted any more in this boot.
pub async fn mount(machine: &Machine, devices: &[Device], volumes: &[Volume]) -> Option<String> {
    if machine.supervisor.facts().volumes_mounted {
        return None;
    }
    let mut waiting: Vec<(PathBuf, String)> = Vec::new();
    for volume in from_the_top(volumes) {
        let target = Path::new(&volume.mount_path);
        let outcome = match waiting.iter().find(|(above, _)| target.starts_with(above)) {
            Some((above, _)) => Ok(Outcome::Waits(format!("for the volume above it, {}", above.display()))),
            None => mount_one(machine, devices, volume).await,
        };
        match outcome {
            Ok(Outcome::Mounted) => {}
            Ok(Outcome::Waits(why)) => {
                waiting.push((target.into(), format!("volume {}: {why}", volume.name)))
            }
            Err(error) => waiting.push((target.into(), format!("volume {}: {error:#}", volume.name))),
        }
    }
    if waiting.is_empty() {
        let message = format!("{} volumes are mounted", volumes.len());
        machine.condition("VolumesMounted", true, "Mounted", &message);
        return None;
    }
    let said = waiting.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ");
    machine.condition("VolumesMounted", false, "Waiting", &said);
    Some(said)
}

/// A volume below another one's mount point is mounted on that one.
fn from_the_top(volumes: &[Volume]) -> Vec<&Volume> {
    let mut sorted: Vec<&Volume> = volumes.iter().collect();
    sorted.sort_by_key(|volume| Path::new(&volume.mount_path).components().count());
    sorted
}

async fn mount_one(machine: &Machine, devices: &[Device], volume: &Volume) -> Result<Outcome> {
    let target = PathBuf::from(&volume.mount_path);
    let plain = target.components().all(|c| !matches!(c, Component::ParentDir));
    ensure!(target.starts_with("/var/") && plain, "mountPath {} is not below /var", volume.mount_path);
    if sys::mount::mounts()?.iter().any(|m| m.target == target) {
        return Ok(Outcome::Mounted);
    }
    let choice = disk::choose_volume(devices, &volume.name, &volume.disk);
    let below = {
        let target = target.clone();
        blocking("look below a mount point", LOOK_DEADLINE, move || Ok(holds_data(&target)?)).await?
    };
    let children = &machine.children;
    let part = match choice {
        Choice::Wait(why) => return Ok(Outcome::Waits(why)),
        // A volume has a disk of its own.
        Choice::Append { disk } => return Ok(Outcome::Waits(format!("{disk} holds the OS"))),
        Choice::Format { .. } | Choice::Partition { .. } if below => {
            return Ok(Outcome::Waits(hides(&target)));
        }
        Choice::Mount(name) => Path::new("/dev").join(name),
        Choice::Format { partition, disk } => {
            let (disk, part) = (Path::new("/dev").join(disk), Path::new("/dev").join(partition));
            disk::prepare_partition(children, &disk, &part, &volume.name).await?;
            part
        }
        Choice::Partition { disk, .. } => {
            disk::prepare_disk(children, &Path::new("/dev").join(disk), &volume.name).await?
        }
    };
    disk::mount_ext4(children, &part, &volume.mount_path).await?;
    if below {
        let mounted = target.clone();
        let check = move || {
            let own = holds_data(&mounted)?;
            if !own {
                sys::mount::unmount(&mounted, false)?;
            }
            Ok(own)
        };
        // A file system that was made and never used.
        if !blocking("look into a volume", LOOK_DEADLINE, check).await? {
            return Ok(Outcome::Waits(hides(&target)));
        }
    }
    let message = format!("volume {} ({}) is mounted on {}", volume.name, part.display(), volume.mount_path);
    machine.events.note("disk", "VolumeMounted", &message);
    Ok(Outcome::Mounted)
}

fn hides(target: &Path) -> String {
    format!(
        "it is empty, and {} holds data of the state volume that it would hide; take the Volume out of the config, or begin with a node without data",
        target.display()
    )
}

/// Whether there is anything below that cannot be made anew: a file that is not in one of [`CACHES`].
fn holds_data(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    if CACHES.iter().any(|cache| folder.starts_with(cache)) {
        return Ok(false);
    }
    for entry in entries {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => entry.file_name() != LOST_AND_FOUND && holds_data(&entry.path())?,
            false => true,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_any_file_and_no_folder_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("etcd");
        assert!(!holds_data(&target).unwrap(), "what is not there holds nothing");
        fs::create_dir_all(target.join("member/wal")).unwrap();
        fs::create_dir_all(target.join(LOST_AND_FOUND)).unwrap();
        fs::write(target.join(LOST_AND_FOUND).join("#12"), "").unwrap();
        assert!(!holds_data(&target).unwrap(), "folders of a volume that was made and never used");
        fs::write(target.join("member/wal/0.wal"), "x").unwrap();
        assert!(holds_data(&target).unwrap());
    }

    #[test]
    fn a_volume_below_another_comes_after_it() {
        let volume = |path: &str| Volume { mount_path: path.into(), ..Volume::default() };
        let volumes = [volume("/var/lib/a/deep/b"), volume("/var/lib/a"), volume("/var/lib/a/deep")];
        let order: Vec<_> = from_the_top(&volumes).iter().map(|v| v.mount_path.as_str()).collect();
        assert_eq!(order, ["/var/lib/a", "/var/lib/a/deep", "/var/lib/a/deep/b"]);
    }
}
