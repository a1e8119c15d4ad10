//! `cargo xtask power-cuts`: a machine's writes to its disk are recorded once, then the runtime starts on the disk as many power cuts would have left it.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::artifacts::{self, Flavour};
use crate::{boot, host, test};

/// Arguments of `power-cuts`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The first ones are right after somebody was told that an image is there, the others at random.
    #[arg(long, default_value_t = 120)]
    replays: u64,
    /// Repeats the random numbers of another run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Replays the last recording of a machine instead of making one.
    #[arg(long)]
    again: bool,
    /// Records the runtime alone, on this host, instead of a machine: half a minute instead of ten, and images are removed too.
    #[arg(long, conflicts_with_all = ["again", "image"])]
    host: bool,
}

/// Records and replays.
///
/// # Errors
/// When a promise was broken.
pub fn power_cuts(arguments: &Arguments) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "disks are mounted by root only: run `cargo xtask power-cuts` as root"
    );
    host::prepare()?;
    let program = artifacts::host_program("qemu-tests")?;
    let folder = host::target().join("power-cuts");
    let mut settings = vec![
        ("PINTLE_POWER_PROGRAM", program.display().to_string()),
        ("PINTLE_POWER_REPLAYS", arguments.replays.to_string()),
        ("PINTLE_POWER_SEED", arguments.seed.to_string()),
    ];
    if !arguments.host {
        if !arguments.again {
            record(&program, &folder, arguments.image.as_deref())?;
        }
        settings.push(("PINTLE_POWER_RECORDING", folder.display().to_string()));
    }
    test::host_ring("no_power_cut", &settings)?;
    println!("replay {0} of {0}: 0 mismatches", arguments.replays);
    Ok(())
}

fn record(program: &Path, folder: &Path, image: Option<&Path>) -> Result<()> {
    let image = match image {
        Some(image) => image.to_owned(),
        None => boot::build(Flavour { debug: false, without_kubernetes: true }, "none")?,
    };
    let mut command = Command::new(program);
    command.arg("record").arg("--image").arg(image).arg("--artifacts").arg(folder);
    command.arg("--pintle").arg(artifacts::host_program("pintle")?);
    command.arg("--inspector").arg(artifacts::static_program("inspector", "node-inspector")?);
    let done = command.status().context("run qemu-tests record")?;
    ensure!(done.success(), "no recording; the machine's console is in {}", folder.display());
    Ok(())
}
