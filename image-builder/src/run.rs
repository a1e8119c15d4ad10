//! Commands of the build host.
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command; its output is shown only when it fails.
///
/// # Errors
/// When it cannot start or ends with a failure.
pub fn run(command: &mut Command) -> Result<()> {
    capture(command).map(drop)
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// As [`run`].
pub fn capture(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .env("LC_ALL", "C")
        .env("SOURCE_DATE_EPOCH", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {name}; is it installed?"))?;
    if !done.status.success() {
        bail!("{name} failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs `name` with `arguments` and returns its standard output.
///
/// # Errors
/// As [`run`].
pub fn output(name: &str, arguments: &[&str]) -> Result<String> {
    capture(Command::new(name).args(arguments))
}
