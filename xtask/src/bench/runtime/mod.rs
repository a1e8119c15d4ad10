//! `cargo xtask bench runtime`: each contender in namespaces of its own, one after the other, driven by the same client.
mod client;
pub mod contender;
mod daemon;
mod image;
mod kind;
mod memory;
mod namespaces;
mod peers;
mod processor;
mod report;
mod story;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use super::Output;
use super::figures::machine;
use crate::{artifacts, host};
use contender::Measured;
use kind::Kind;

/// Arguments of `bench runtime`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measured cycles of each kind (after a tenth as many to warm up).
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    samples: u32,
    /// Idle pods whose memory is measured.
    #[arg(long, default_value_t = 100)]
    pods: u32,
    /// Pods at once on one node, for our runtime: how the time per pod grows, and what they leave behind. 0 leaves this out.
    #[arg(long, default_value_t = 500)]
    many: u32,
    /// Which contenders; default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// A folder with `pintle-runtime` and `pintle-launch`, instead of building them.
    #[arg(long)]
    runtime: Option<PathBuf>,
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Builds the contenders, drives them and prints.
///
/// # Errors
/// When one cannot be built or does not work (what it said is shown), and when many pods left something behind.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "runtimes need root: run `cargo xtask bench runtime` as root");
    host::prepare()?;
    let kinds = if arguments.only.is_empty() {
        vec![Kind::Pintle, Kind::Runc, Kind::Crun]
    } else {
        arguments.only.clone()
    };
    let machine = machine();
    let ours = match &arguments.runtime {
        Some(folder) => folder.canonicalize().with_context(|| format!("find {}", folder.display()))?,
        None => {
            // The very executable of the image.
            eprintln!("building the OS's executables");
            artifacts::rust(false)?
        }
    };
    let with_peers = kinds.iter().any(|kind| *kind != Kind::Pintle);
    let peers = with_peers.then(peers::build).transpose()?;
    let archive = image::archive()?;
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for kind in kinds {
        let programs = if kind == Kind::Pintle { Some(ours.as_path()) } else { peers.as_deref() };
        let programs = programs.context("no programs of this contender")?;
        eprintln!("measuring {}", kind.title());
        match contend(kind, programs, &archive, arguments) {
            Ok(one) => measured.push(one),
            // A peer that this host cannot run spoils nothing.
            Err(error) if kind == Kind::Crun => eprintln!("not measured: {}: {error:#}", kind.title()),
            Err(error) => failed.push(format!("{}: {error:#}", kind.title())),
        }
    }
    match arguments.output {
        Output::Json => println!("{}", report::json(&machine, &measured)?),
        Output::Table => print!("{}", report::text(&machine, &measured)),
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    // However busy the machine is.
    let traces: Vec<String> = measured.iter().filter_map(|one| one.story.as_ref()?.traces()).collect();
    ensure!(traces.is_empty(), "{}", traces.join("; "));
    Ok(())
}

/// Runs one contender in its namespaces and reads what it measured.
fn contend(kind: Kind, programs: &Path, archive: &Path, arguments: &Arguments) -> Result<Measured> {
    let folder = host::target().join("bench").join(kind.name());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let result = folder.join("result.json");
    let many = if kind == Kind::Pintle { arguments.many } else { 0 };
    let mut command = namespaces::unshare();
    command.arg(std::env::current_exe()?).args(["bench", "contender", "--kind", kind.name()]);
    command.arg("--programs").arg(programs).arg("--archive").arg(archive);
    command.arg("--folder").arg(&folder);
    for (name, value) in [("--samples", arguments.samples), ("--pods", arguments.pods), ("--many", many)] {
        command.arg(name).arg(value.to_string());
    }
    let done = command.status().context("run unshare")?;
    namespaces::remove_cgroup();
    ensure!(done.success(), "{} failed; its log: {}", kind.title(), folder.join("daemon.log").display());
    let text = std::fs::read(&result).with_context(|| format!("read {}", result.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", result.display()))
}

/// Runs a program and hands its failure on.
fn must(command: &mut Command) -> Result<()> {
    command_output(command).map(drop)
}
