//! `deny.toml`: licences, banned crates and where crates come from, as cargo-deny reads it. Advisories need a database from the network and are not
//! asked for here.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::artifacts::{cargo, key};
use crate::host;

const VERSION: &str = "0.20.2";

/// Runs cargo-deny over the workspace.
///
/// # Errors
/// With cargo-deny's own words.
pub fn check() -> Result<()> {
    let program = program()?;
    let done = Command::new(program)
        .args(["--log-level", "error", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
        .current_dir(host::workspace())
        .output()
        .context("run cargo-deny")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "see deny.toml:\n{}", said.trim());
    Ok(())
}

/// Builds the program, unless the cache has it.
fn program() -> Result<PathBuf> {
    let folder = host::cache()?.join("cargo-deny").join(key(&[VERSION.to_owned()]));
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        eprintln!("building cargo-deny {VERSION}, once");
        // Unoptimized: it runs for a second and would take minutes to build. Without its features it asks nothing of the network.
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--debug", "--no-default-features"]);
        install.args(["--version", VERSION, "--root"]).arg(&folder).arg("cargo-deny");
        install.env("CARGO_TARGET_DIR", folder.join("build"));
        ensure!(install.status().context("run cargo install")?.success(), "cargo-deny does not build");
        let _ = std::fs::remove_dir_all(folder.join("build"));
    }
    Ok(program)
}
