//! The process: waits for input, makes files, serves the cluster, and starts over when the input changes.
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use machine::network::NodeNetwork;
use machine::paths;

use crate::input::Input;
use crate::layout::Layout;
use crate::reconcile::reconcile;
use crate::{cluster, guard, machine_socket};
use node_kit::files::{Durability, replace_changed};
use node_kit::folder::Folder;

/// How long the service waits for its input before it ends, so that its failure shows and init starts it again.
const INPUT_DEADLINE: Duration = Duration::from_secs(300);
/// How often certificates are looked at when nothing changes.
const CERTIFICATES: Duration = Duration::from_secs(6 * 3600);

/// Runs until it fails; init restarts it.
///
/// # Errors
/// When the input stays unusable, or the files cannot be written.
pub async fn run() -> Result<()> {
    let layout = Layout::new("/");
    let mut watch = Folder::watch(paths::RUN);
    let mut input = first_input(&mut watch).await?;
    loop {
        tokio::select! {
            passed = guard::pass(&layout, &input) => break passed?,
            next = next_input(&mut watch, &input) => input = next?,
        }
    }
    let mut announced = false;
    loop {
        let answered = layout.at(paths::API_SERVER_ANSWERED).exists();
        let changed = reconcile(&layout, &input, SystemTime::now(), answered)?;
        if !changed.is_empty() {
            tracing::info!(files = changed.join(" "), "written or removed");
        }
        if !announced {
            machine_socket::ready().await?;
            announced = true;
        }
        input = tokio::select! {
            ready = cluster::ready(&layout, &input), if !answered => {
                ready?;
                replace_changed(&layout.at(paths::API_SERVER_ANSWERED), b"", 0o600, Durability::Process)?;
                continue;
            }
            () = cluster::run(&layout, &input), if answered => continue,
            next = next_input(&mut watch, &input) => next?,
        };
    }
}

async fn first_input(watch: &mut Folder) -> Result<Input> {
    let deadline = tokio::time::Instant::now() + INPUT_DEADLINE;
    let mut said = String::new();
    loop {
        let error = match read() {
            Ok(input) => return Ok(input),
            Err(error) => error,
        };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return Err(error).context("no usable input within 5 minutes");
        }
        let text = format!("{error:#}");
        if text != said {
            tracing::info!(reason = text, "waiting for the machine config and the network");
            said = text;
        }
        watch.changed_within(left).await;
    }
}

/// The next input that differs, or the same one when the certificates are to be looked at.
async fn next_input(watch: &mut Folder, current: &Input) -> Result<Input> {
    let until = tokio::time::Instant::now() + CERTIFICATES;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return Ok(current.clone());
        }
        watch.changed_within(left).await;
        match read() {
            Ok(input) if input != *current => return Ok(input),
            Ok(_) => {}
            // A node that lost its address for a moment keeps what it has.
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the new input is not usable; the old one stays")
            }
        }
    }
}

fn read() -> Result<Input> {
    let text = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let config =
        machine::config::parse(paths::ACTIVE_CONFIG, &text(paths::ACTIVE_CONFIG)?).map_err(|faults| {
            let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the machine config is not valid:\n{}", lines.join("\n"))
        })?;
    let network: NodeNetwork = serde_json::from_str(&text(paths::NETWORK_STATUS)?)
        .with_context(|| format!("read {}", paths::NETWORK_STATUS))?;
    Input::new(&config, &network)
}
