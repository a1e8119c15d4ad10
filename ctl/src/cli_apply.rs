//! `pintle apply`.
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ctl::client::Client;
use machine::api;
use serde_json::json;

use crate::cli_errors::explain;
use crate::cli_rows::Rows;

#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    Auto,
    NoReboot,
    Reboot,
    Staged,
}

/// Sends one machine a config; prints what it made of it.
pub async fn apply(
    client: &mut Client,
    node: &str,
    file: &PathBuf,
    dry_run: bool,
    mode: Mode,
    rows: &mut Rows,
) -> Result<()> {
    let yaml = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mode = match mode {
        Mode::Auto => api::apply_config_request::Mode::Auto,
        Mode::NoReboot => api::apply_config_request::Mode::NoReboot,
        Mode::Reboot => api::apply_config_request::Mode::Reboot,
        Mode::Staged => api::apply_config_request::Mode::Staged,
    };
    let request = api::ApplyConfigRequest { yaml, mode: mode.into(), dry_run };
    let result = client.apply_config(request).await.map_err(explain)?.into_inner();
    for warning in &result.warnings {
        eprintln!("{node}: warning: {warning}");
    }
    for f in &result.faults {
        eprintln!("{}:{}:{}: {}: {}; {}", file.display(), f.line, f.column, f.field, f.message, f.remedy);
    }
    if !result.faults.is_empty() {
        bail!("the config has {} fault(s); nothing was changed", result.faults.len());
    }
    let text = format!("{}{}", result.action, if dry_run { " (dry run)" } else { "" });
    rows.say(node, &text, json!({"action": result.action, "dryRun": dry_run}));
    Ok(())
}
