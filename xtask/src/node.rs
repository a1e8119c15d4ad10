//! Commands about running nodes: their console, their services' logs, and images for them.
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::up;

/// Shows a node's console and follows it.
///
/// # Errors
/// When there is no such node.
pub fn console(name: &str, follow: bool) -> Result<()> {
    let cluster = up::running()?;
    let vm = cluster.node(name)?;
    let mut out = std::io::stdout();
    let shown = vm.console().follow(&mut out, || !follow || !vm.runs());
    if out.is_terminal() {
        writeln!(out)?;
    }
    shown
}

/// Shows the log of a node's service, or of all services: from the machine API where it answers, otherwise from the console.
///
/// # Errors
/// When there is no such node.
pub fn logs(name: &str, service: Option<&str>, follow: bool) -> Result<()> {
    let cluster = up::running()?;
    let vm = cluster.node(name)?;
    if let Some(service) = service {
        let mut command = cluster.pintle(vm)?;
        command.args(["logs", service]);
        if follow {
            command.arg("--follow");
        }
        if command.status()?.success() {
            return Ok(());
        }
        eprintln!("the machine API does not answer; lines of {service} on the console:");
    }
    let prefix = service.map(|service| format!("{service}: "));
    for line in vm
        .console()
        .text()?
        .lines()
        .filter(|line| prefix.as_ref().is_none_or(|prefix| line.starts_with(prefix.as_str())))
    {
        println!("{line}");
    }
    Ok(())
}

/// Imports OCI or docker archives into every node.
///
/// # Errors
/// When a node refuses one.
pub fn load(archives: &[PathBuf]) -> Result<()> {
    let cluster = up::running()?;
    for vm in &cluster.state.nodes {
        for archive in archives {
            let done = cluster.pintle(vm)?.args(["image", "import"]).arg(archive).status()?;
            ensure!(done.success(), "{} did not take {}", vm.name, archive.display());
            println!("{}: {}", vm.name, archive.display());
        }
    }
    Ok(())
}

/// Runs `pintle` against a node.
///
/// # Errors
/// When it fails.
pub fn pintle(name: &str, arguments: &[String]) -> Result<()> {
    let cluster = up::running()?;
    let mut command: Command = cluster.pintle(cluster.node(name)?)?;
    ensure!(command.args(arguments).status()?.success(), "pintle {} failed", arguments.join(" "));
    Ok(())
}
