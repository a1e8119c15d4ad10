//! `image-builder`: see the library; `cargo xtask image` calls it.
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use image_builder::build::{Inputs, build};
use image_builder::formats::{Format, write};
use image_builder::verity::Compression;

/// Builds Pintle's OS image from compiled binaries.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with the static executables.
    #[arg(long)]
    binaries: PathBuf,
    /// The control plane's Go binary; without it the image has no Kubernetes image in its bundle.
    #[arg(long)]
    kubernetes: Option<PathBuf>,
    /// Where Debian packages are kept between builds.
    #[arg(long)]
    cache: PathBuf,
    /// How the root is stored.
    #[arg(long, value_enum, default_value = "lz4hc")]
    compression: Compression,
    /// What to make of the image.
    #[arg(long, value_enum, default_value = "parts")]
    format: Format,
    /// Appended to the kernel command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let inputs = Inputs {
        binaries: arguments.binaries,
        kubernetes: arguments.kubernetes,
        cache: arguments.cache,
        compression: arguments.compression,
    };
    let image = build(&inputs, &arguments.out)?;
    for path in write(arguments.format, &image, &arguments.append, &arguments.out)? {
        println!("{}", path.display());
    }
    Ok(())
}
