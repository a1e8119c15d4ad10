//! `image-builder`: see the library; `cargo xtask image` calls it.
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use image_builder::build::{Image, Inputs, build};
use image_builder::formats::{Format, write};
use image_builder::verity::Compression;

/// Builds Pintle's OS image from compiled binaries.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with the static executables.
    #[arg(long, required_unless_present = "parts")]
    binaries: Option<PathBuf>,
    /// The control plane's Go binary; without it the image has no Kubernetes image in its bundle.
    #[arg(long)]
    kubernetes: Option<PathBuf>,
    /// Where Debian packages are kept between builds.
    #[arg(long, required_unless_present = "parts")]
    cache: Option<PathBuf>,
    /// Makes the format from an image that was built before, the folder with its `image.json`.
    #[arg(long, conflicts_with_all = ["binaries", "kubernetes", "cache"])]
    parts: Option<PathBuf>,
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
    let image = match (arguments.parts, arguments.binaries, arguments.cache) {
        (Some(folder), ..) => Image::open(&folder)?,
        (None, Some(binaries), Some(cache)) => {
            let (kubernetes, compression) = (arguments.kubernetes, arguments.compression);
            build(&Inputs { binaries, kubernetes, cache, compression }, &arguments.out)?
        }
        _ => bail!("name --binaries and --cache, or --parts"),
    };
    for path in write(arguments.format, &image, &arguments.append, &arguments.out)? {
        println!("{}", path.display());
    }
    Ok(())
}
