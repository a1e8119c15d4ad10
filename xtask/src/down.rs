//! `cargo xtask down`.
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_tests::cluster::State;

use crate::host::cluster_folder;

/// How long pods and file systems get to stop.
const ORDERLY: Duration = Duration::from_secs(90);

/// Ends the machines; disks, logs and secrets stay for the next `up`. Without `now` their power buttons are pressed first.
///
/// # Errors
/// When a machine does not end.
pub fn down(now: bool) -> Result<()> {
    let Some(state) = State::load(&cluster_folder())? else {
        println!("no cluster");
        return Ok(());
    };
    let running: Vec<_> = state.nodes.iter().filter(|vm| vm.runs()).collect();
    for vm in &running {
        if !now && let Err(fault) = vm.press_power_button() {
            println!("{}: {fault:#}", vm.name);
        }
    }
    let start = Instant::now();
    for vm in running {
        let orderly = !now && vm.process.wait(ORDERLY.saturating_sub(start.elapsed()));
        vm.power_cut()?;
        println!(
            "{} is off{}",
            vm.name,
            if orderly || now { "" } else { "; it did not stop by itself in 90 s" }
        );
    }
    Ok(())
}

/// Ends the machines and removes everything that belongs to the cluster.
///
/// # Errors
/// When a machine does not end or a file cannot be removed.
pub fn remove() -> Result<()> {
    let Some(state) = State::load(&cluster_folder())? else { return Ok(()) };
    for vm in &state.nodes {
        vm.power_cut()?;
        std::fs::remove_dir_all(&vm.folder).with_context(|| format!("remove {}", vm.folder.display()))?;
    }
    for name in
        ["state.json", "secrets.yaml", "control-plane.yaml", "worker.yaml", "pintleconfig", "kubeconfig"]
    {
        let path = cluster_folder().join(name);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
