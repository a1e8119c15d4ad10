//! A machine config with faults, given to a running node.
use anyhow::{Result, ensure};
use qemu_tests::command::command_output;

use super::{Stage, programs};
use crate::bench::within;
use crate::cases::{Outcome, bad_config};

/// `pintle apply` refuses it with every fault; the node keeps the config it has. `pintle validate` says the same.
pub fn refused(stage: &mut Stage) -> Result<Outcome> {
    let folder = stage.cluster.folder.join("bad-config");
    std::fs::create_dir_all(&folder)?;
    let vm = &stage.nodes()[0];
    let active = || command_output(stage.cluster.pintle(vm)?.args(["get", "config", "--with-secrets"]));
    let before = active()?;
    for bad in bad_config::BAD {
        let file = folder.join("bad.yaml");
        std::fs::write(&file, bad.text)?;
        for command in ["validate", "apply"] {
            let mut pintle = if command == "apply" {
                stage.cluster.pintle(vm)?
            } else {
                std::process::Command::new(&stage.cluster.programs.pintle)
            };
            let ended = programs::Running::start(pintle.arg(command).arg(&file))?.end(within(30))?;
            ensure!(!ended.status.success(), "pintle {command} took {}", bad.name);
            let said = format!("{}\n{}", ended.lines.join("\n"), ended.errors);
            for fault in bad.faults {
                ensure!(
                    fault.is_in(&said),
                    "pintle {command} says nothing of {fault:?} in {}: {said}",
                    bad.name
                );
            }
        }
    }
    ensure!(active()? == before, "a refused config changed the active one");
    Ok(Outcome::Passed)
}
