//! The state volume on /var and what is bound to it.
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::paths;

use super::identity;
use crate::disk::{self, Choice, Device};
use crate::node::{ActiveConfig, Machine};
use crate::task::blocking;

/// How long disks may take to appear before a blank one becomes the state disk.
const SETTLE: Duration = Duration::from_secs(2);
/// Mount points in the read-only root and the folders of the state volume that they show.
const BOUND: [(&str, &str); 3] =
    [("/var/etc/kubernetes", "/etc/kubernetes"), ("/var/etc/cni", "/etc/cni"), ("/var/opt", "/opt")];
const FOLDERS: [&str; 9] = [
    paths::INIT_STATE,
    paths::SERVICE_LOGS,
    paths::KUBELET,
    paths::POD_LOGS,
    paths::CONTAINER_LOGS,
    "/var/etc/kubernetes/manifests",
    // Where DaemonSets of CNI networks put what they install.
    "/var/etc/cni/net.d",
    "/var/opt/cni/bin",
    "/var/tmp",
];

/// Makes the state volume ready and mounts it. `Some` tells what it waits for.
///
/// # Errors
/// What failed; the next round tries again.
pub async fn mount(
    machine: &Machine,
    devices: &[Device],
    active: Option<&ActiveConfig>,
) -> Result<Option<String>> {
    let install = active.and_then(|a| a.config.install.as_ref());
    let children = &machine.children;
    let mut choice = disk::choose_state(devices, install, active.is_some());
    if matches!(choice, Choice::Partition { .. }) {
        // The disk with the state of an earlier boot may only be slow to appear.
        tokio::time::sleep(SETTLE).await;
        let devices = blocking("look at the disks", Duration::from_secs(120), || Ok(disk::scan())).await?;
        choice = disk::choose_state(&devices, install, active.is_some());
    }
    let part = match choice {
        Choice::Wait(why) => {
            machine.condition("StateMounted", false, "Waiting", &why);
            return Ok(Some(why));
        }
        Choice::Mount(name) => Path::new("/dev").join(name),
        Choice::Format { partition, disk } => {
            let (disk, part) = (Path::new("/dev").join(disk), Path::new("/dev").join(partition));
            machine.events.note(
                "disk",
                "Formatting",
                &format!("making the state volume on {}", part.display()),
            );
            disk::prepare_partition(children, &disk, &part, paths::STATE_PARTITION).await?;
            part
        }
        Choice::Append { disk } => {
            let disk = Path::new("/dev").join(disk);
            let said = format!("the state volume is made in what {} has left", disk.display());
            machine.events.note("disk", "Partitioning", &said);
            disk::append_partition(children, &disk, paths::STATE_PARTITION).await?
        }
        Choice::Partition { disk, wipe } => {
            let held = if wipe { ", and what it held is lost, as `wipe` says" } else { "" };
            machine.events.note("disk", "Partitioning", &format!("/dev/{disk} becomes the state disk{held}"));
            disk::prepare_disk(children, &Path::new("/dev").join(disk), paths::STATE_PARTITION).await?
        }
    };
    disk::mount_ext4(children, &part, paths::STATE).await?;
    blocking("lay out the state volume", Duration::from_secs(60), lay_out).await?;
    machine.logs.open();
    let message = format!("state volume {} is mounted on {}", part.display(), paths::STATE);
    machine.events.note("disk", "StateMounted", &message);
    machine.condition("StateMounted", true, "Mounted", &message);
    machine.supervisor.set_facts(|facts| facts.state_mounted = true);
    Ok(None)
}

/// The folders that services count on; a volume that was mounted over some has none. It blocks.
///
/// # Errors
/// When one cannot be made.
pub fn make_folders() -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(folder).with_context(|| format!("create {folder}"))?;
    }
    Ok(())
}

fn lay_out() -> Result<()> {
    make_folders()?;
    link_run(Path::new(paths::STATE))?;
    for (source, target) in BOUND {
        fs::create_dir_all(source).with_context(|| format!("create {source}"))?;
        sys::mount::bind(source, target)?;
    }
    // PID 1 and its services are shared with pods through these.
    sys::mount::share_all()?;
    if let Err(error) = identity::restore() {
        tracing::warn!("machine id and random seed: {error:#}");
    }
    Ok(())
}

/// `/var/run` is `/run`, as everywhere: D-Bus clients look for the system bus there, and what pods keep there must not outlive a boot.
fn link_run(state: &Path) -> Result<()> {
    let link = state.join("run");
    if link.is_dir() && !link.is_symlink() {
        // A pod made it for its sockets when there was no link; they died with that boot.
        fs::remove_dir_all(&link).with_context(|| format!("empty {}", link.display()))?;
    }
    match std::os::unix::fs::symlink("../run", &link) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("link {} to /run", link.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_var_run_lies_in_run() {
        let root = tempfile::tempdir().unwrap();
        let (run, state) = (root.path().join("run"), root.path().join("var"));
        for folder in [&run, &state] {
            fs::create_dir(folder).unwrap();
        }
        link_run(&state).unwrap();
        link_run(&state).expect("a second boot finds it");
        fs::write(state.join("run/socket"), "").unwrap();
        assert!(run.join("socket").exists());
        fs::remove_file(state.join("run")).unwrap();
        fs::create_dir_all(state.join("run/old")).unwrap();
        link_run(&state).unwrap();
        assert!(state.join("run/socket").exists(), "a folder of earlier boots gives way");
    }
}
