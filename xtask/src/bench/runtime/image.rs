//! The image that every contender runs: one static program, as a docker archive.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::must;
use crate::host;

/// Its name.
pub const NAME: &str = "bench.local/pause:1";

/// Builds one of the small static programs beside this file.
///
/// # Errors
/// When rustc fails.
pub fn program(name: &str, out: &Path) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let done = Command::new(rustc)
        .args(["--edition", "2024", "-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"])
        .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
        .arg(out)
        .arg(host::workspace().join(format!("xtask/src/bench/runtime/program/{name}.rs")))
        .status()
        .context("run rustc")?;
    ensure!(done.success(), "building {name} failed");
    Ok(())
}

/// Builds the archive.
///
/// # Errors
/// When rustc or tar fails.
pub fn archive() -> Result<PathBuf> {
    let folder = host::target().join("bench/image");
    let root = folder.join("root");
    std::fs::create_dir_all(&root)?;
    program("pause", &root.join("pause"))?;
    // What a runtime looks up users in, and where it mounts.
    for name in ["etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/pause\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let layer = folder.join("layer.tar");
    let plain = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    must(Command::new("tar").args(plain).arg("-cf").arg(&layer).arg("-C").arg(&root).arg("."))?;
    let digest = hex::encode(Sha256::digest(std::fs::read(&layer)?));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/pause"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "bench"}],
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("pause.tar");
    must(Command::new("tar").args(plain).arg("-cf").arg(&archive).arg("-C").arg(&folder).args([
        "manifest.json",
        "config.json",
        "layer.tar",
    ]))?;
    Ok(archive)
}
