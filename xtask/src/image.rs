//! `cargo xtask image`: the OS in a format for real machines.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::artifacts::{self, Flavour};
use crate::host;

/// Arguments of `image`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Disk image (UEFI), hybrid ISO, iPXE set, unified kernel image, or the parts for `qemu -kernel`.
    #[arg(long, value_parser = ["disk", "iso", "pxe", "uki", "parts"])]
    format: String,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
    /// Appended to the kernel command line, such as `pintle.config=http://…`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    #[command(flatten)]
    flavour: Flavour,
}

impl Arguments {
    /// An ISO into a folder.
    #[must_use]
    pub fn iso(out: &std::path::Path, flavour: Flavour) -> Self {
        Self { format: "iso".into(), out: out.into(), append: String::new(), flavour }
    }
}

/// Builds an image.
///
/// # Errors
/// When a part does not build.
pub fn image(arguments: &Arguments) -> Result<()> {
    host::prepare()?;
    let binaries = artifacts::rust(arguments.flavour.debug)?;
    let kubernetes = if arguments.flavour.without_kubernetes { None } else { Some(artifacts::kubernetes()?) };
    let builder = artifacts::host_program("image-builder")?;
    let mut command = Command::new(builder);
    command.arg("--binaries").arg(binaries).arg("--cache").arg(host::cache()?.join("debian"));
    command
        .args(["--format", &arguments.format, "--append", &arguments.append])
        .arg("--out")
        .arg(&arguments.out);
    if let Some(path) = kubernetes {
        command.arg("--kubernetes").arg(path);
    }
    ensure!(command.status().context("run image-builder")?.success(), "building the image failed");
    Ok(())
}
