//! Building what an image is made of. Cargo and Go know themselves what changed; the image and the Go binary, which they cannot skip
//! cheaply, are kept by the digest of their inputs.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::Image;
use qemu_tests::command::command_output;
use sha2::{Digest, Sha256};

use crate::host;

/// Where static executables are built for.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Crates whose executables go into the root.
const CRATES: &[&str] = &["init", "runtime", "services", "demo"];
/// Names of those executables.
pub const BINARIES: &[&str] = &["pintle-init", "pintle-services", "pintle-launch", "pintle-demo"];

/// How an image is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Flavour {
    /// Build our executables without optimisation: quicker to build, slower and larger.
    #[arg(long)]
    pub debug: bool,
    /// Leave the Kubernetes binary out: the node can run pods, but cannot be a control plane.
    #[arg(long)]
    pub without_kubernetes: bool,
}

/// A cargo command; `cargo` itself says which cargo it is.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(host::workspace());
    // Set by the outer `cargo xtask` for xtask's own package.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" {
            command.env_remove(name);
        }
    }
    command
}

/// Builds the static executables; returns the folder they lie in.
///
/// # Errors
/// When cargo fails; its output went to the terminal.
pub fn rust(debug: bool) -> Result<PathBuf> {
    let mut command = rust_command(debug);
    ensure!(command.status().context("run cargo")?.success(), "building the OS's executables failed");
    Ok(host::target().join(TARGET).join(profile(debug)))
}

/// Builds one static executable that is not part of the OS; returns its path.
///
/// # Errors
/// As [`rust`].
pub fn static_program(package: &str, name: &str) -> Result<PathBuf> {
    let done = static_command(&[package], false).status().context("run cargo")?;
    ensure!(done.success(), "building {name} failed");
    Ok(host::target().join(TARGET).join(profile(false)).join(name))
}

const fn profile(debug: bool) -> &'static str {
    if debug { "debug" } else { "release" }
}

/// The command that builds them.
#[must_use]
pub fn rust_command(debug: bool) -> Command {
    static_command(CRATES, debug)
}

fn static_command(packages: &[&str], debug: bool) -> Command {
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--target", TARGET, "--bins"]);
    for name in packages {
        command.args(["-p", name]);
    }
    if !debug {
        command.arg("--release");
    }
    // Without position independence: launch starts quicker, and the files are smaller.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    command.env("LIBSECCOMP_LINK_TYPE", "static").env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu");
    command
}

/// Builds a host program of the workspace; returns its path.
///
/// # Errors
/// When cargo fails.
pub fn host_program(name: &str) -> Result<PathBuf> {
    let done = cargo()
        // Features are chosen for the whole workspace, as for the tests: dependencies are compiled once for all of them.
        .args(["build", "--quiet", "--locked", "--workspace", "--bin", name])
        .status()
        .context("run cargo")?;
    ensure!(done.success(), "building {name} failed");
    Ok(host::target().join("debug").join(name))
}

/// Builds the Kubernetes binary from its Go module, unless the cache has it for the same sources and Go release.
///
/// # Errors
/// When the module is missing or Go fails.
pub fn kubernetes() -> Result<PathBuf> {
    let module = host::workspace().join("control-plane/kubernetes");
    ensure!(module.join("go.mod").exists(), "{} has no go.mod", module.display());
    let mut inputs = vec![command_output(Command::new("go").arg("version"))?];
    inputs.extend(file_digests(&module)?);
    let binary = host::cache()?.join("kubernetes").join(key(&inputs)).join("kubernetes");
    if !binary.exists() {
        let folder = binary.parent().context("cache folder")?;
        std::fs::create_dir_all(folder)?;
        let part = folder.join(format!("part-{}", std::process::id()));
        let done = Command::new("sh")
            .arg(module.join("build"))
            .arg(&part)
            .env_remove("GOFLAGS")
            .status()
            .context("run control-plane/kubernetes/build")?;
        ensure!(done.success(), "building the Kubernetes binary failed");
        std::fs::rename(&part, &binary)?;
    }
    Ok(binary)
}

/// Builds kernel, initramfs and root into a folder of the cache named after their inputs; returns that folder.
///
/// # Errors
/// When a part fails to build.
pub fn image(binaries: &Path, kubernetes: Option<&Path>, compression: &str) -> Result<PathBuf> {
    let builder = host_program("image-builder")?;
    let mut inputs = vec![compression.to_owned(), digest(&builder)?, debian_versions()?];
    for name in BINARIES {
        inputs.push(digest(&binaries.join(name))?);
    }
    if let Some(path) = kubernetes {
        // Its folder's name is the digest of its inputs.
        inputs.push(path.display().to_string());
    }
    let folder = host::target().join("image").join(key(&inputs));
    if Image::open(&folder)
        .is_ok_and(|image| image.root.exists() && image.kernel.exists() && image.initramfs.exists())
    {
        return Ok(folder);
    }
    keep_few(&host::target().join("image"))?;
    let mut command = Command::new(builder);
    command
        .arg("--binaries")
        .arg(binaries)
        .arg("--cache")
        .arg(host::cache()?.join("debian"))
        .arg("--out")
        .arg(&folder);
    command.args(["--compression", compression]);
    if let Some(path) = kubernetes {
        command.arg("--kubernetes").arg(path);
    }
    command_output(&mut command).context("build the image")?;
    Ok(folder)
}

/// Removes all but the newest images; machines that run keep their open files.
fn keep_few(folder: &Path) -> Result<()> {
    const KEEP: usize = 3;
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut images: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    images.sort();
    for (_, path) in images.iter().rev().skip(KEEP) {
        std::fs::remove_dir_all(path).with_context(|| format!("remove the old image {}", path.display()))?;
    }
    Ok(())
}

/// The versions apt would install now: a security update of the kernel is a new image.
fn debian_versions() -> Result<String> {
    let text = command_output(Command::new("apt-cache").args([
        "policy",
        "linux-image-6.12-amd64",
        "nftables",
        "e2fsprogs",
        "libc6",
        "ca-certificates",
    ]))?;
    Ok(text.lines().filter(|line| line.contains("Candidate:")).collect())
}

/// Name and digest of each file of a folder.
pub fn file_digests(folder: &Path) -> Result<Vec<String>> {
    let mut digests = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            digests.push(format!(
                "{} {}",
                path.file_name().unwrap_or_default().to_string_lossy(),
                digest(&path)?
            ));
        }
    }
    digests.sort();
    Ok(digests)
}

/// SHA-256 of a file, hex.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).with_context(|| format!("read {}", path.display()))?;
    Ok(hex::encode(hasher.finalize()))
}

/// A short name for what was made of these inputs.
#[must_use]
pub fn key(inputs: &[String]) -> String {
    let mut text = String::new();
    for input in inputs {
        let _ = writeln!(text, "{input}");
    }
    hex::encode(Sha256::digest(text))[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_inputs() {
        let a = key(&["x".into(), "y".into()]);
        assert_eq!(a, key(&["x".into(), "y".into()]));
        assert_ne!(a, key(&["xy".into()]));
    }
}
