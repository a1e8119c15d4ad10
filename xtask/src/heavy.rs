//! Rings that take too long for every day: `cargo xtask test --ring transports` and `--ring reproducible`.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::command::command_output;

use crate::artifacts::{self, BINARIES};
use crate::{host, up};

/// Every file that the formats consist of.
const FORMATS: [(&str, &[&str]); 4] = [
    ("iso", &["pintle.iso"]),
    ("disk", &["pintle.img"]),
    ("pxe", &["vmlinuz", "initramfs-pxe", "boot.ipxe"]),
    ("uki", &["pintle.efi"]),
];

/// The command that boots every format to a Ready node. `image`: an image with the control plane that was built before.
///
/// # Errors
/// When something does not build.
pub fn transports(only: Option<&str>, image: Option<&Path>) -> Result<Command> {
    let kubernetes = artifacts::kubernetes()?;
    let parts = match image {
        Some(folder) => folder.to_owned(),
        None => artifacts::image(&artifacts::rust(false)?, Some(&kubernetes), "lz4hc")?,
    };
    let program = artifacts::host_program("qemu-tests")?;
    let mut command = Command::new(program);
    command.arg("transports").arg("--image-builder").arg(artifacts::host_program("image-builder")?);
    command.arg("--image").arg(parts);
    command.arg("--pintle").arg(artifacts::host_program("pintle")?);
    command.arg("--kubectl").arg(up::tool(&kubernetes, "kubectl")?);
    command.arg("--artifacts").arg(host::target().join("transports"));
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    Ok(command)
}

/// Builds the last commit twice, in folders of different names and without a compiler cache, and makes every format of both. Returns how
/// many files are the same and the names of those that differ.
///
/// # Errors
/// When something does not build.
pub fn reproducible() -> Result<(usize, Vec<String>)> {
    let scratch = host::target().join("reproducible");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).with_context(|| format!("empty {}", scratch.display()))?;
    }
    let kubernetes = artifacts::kubernetes()?;
    let builder = artifacts::host_program("image-builder")?;
    let mut made = Vec::new();
    for name in ["one", "a/second/with/another/length"] {
        let folder = scratch.join(name);
        let binaries = checkout_and_build(&folder)?;
        made.push((binaries.clone(), images(&folder, &binaries, &kubernetes, &builder)?));
    }
    let [(binaries, images), (other_binaries, other_images)] = &made[..] else { bail!("two builds") };
    let mut files: Vec<(&Path, &Path, &str)> =
        BINARIES.iter().map(|name| (&**binaries, &**other_binaries, *name)).collect();
    let parts = ["root.img", "initramfs"];
    let formats = FORMATS.iter().flat_map(|(_, files)| files.iter().copied());
    files.extend(parts.into_iter().chain(formats).map(|name| (&**images, &**other_images, name)));
    let mut different = Vec::new();
    for (one, other, name) in &files {
        let digests = (artifacts::digest(&one.join(name))?, artifacts::digest(&other.join(name))?);
        let same = digests.0 == digests.1;
        println!("{}  {} {name}", if same { "same     " } else { "DIFFERENT" }, &digests.0[..16]);
        if !same {
            different.push((*name).to_owned());
        }
    }
    if different.is_empty() {
        std::fs::remove_dir_all(&scratch)?;
    }
    Ok((files.len() - different.len(), different))
}

/// The last commit's files in `folder`, and the executables built from them.
fn checkout_and_build(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let archive = folder.with_extension("tar");
    let mut git = Command::new("git");
    git.current_dir(host::workspace())
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive)
        .arg("HEAD");
    command_output(&mut git).context("take the last commit")?;
    command_output(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder))?;
    std::fs::remove_file(&archive)?;
    let mut command = artifacts::rust_command(false);
    command.current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target"));
    // What one build left behind must not stand in for the other.
    command.env("RUSTC_WRAPPER", "").env("CARGO_INCREMENTAL", "0");
    ensure!(command.status().context("run cargo")?.success(), "building in {} failed", folder.display());
    Ok(folder.join("target").join(artifacts::TARGET).join("release"))
}

fn images(folder: &Path, binaries: &Path, kubernetes: &Path, builder: &Path) -> Result<PathBuf> {
    let out = folder.join("image");
    let mut command = Command::new(builder);
    command.arg("--binaries").arg(binaries).arg("--kubernetes").arg(kubernetes);
    command.arg("--cache").arg(host::cache()?.join("debian")).arg("--out").arg(&out);
    command_output(&mut command).context("build the image")?;
    for (format, _) in FORMATS {
        let mut command = Command::new(builder);
        command.arg("--parts").arg(&out).args(["--format", format]).arg("--out").arg(&out);
        command_output(&mut command).with_context(|| format!("make the format {format}"))?;
    }
    Ok(out)
}
