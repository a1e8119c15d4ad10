//! Programs that are run for their output.
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a command and returns its output.
///
/// # Errors
/// When it fails, with its last words.
pub fn command_output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("run {name}; is it installed?"))?;
    ensure!(done.status.success(), "{name} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
