//! `cargo xtask campaign`: the host ring's kill campaign in full.
use anyhow::{Result, ensure};

use crate::{host, test};

/// Arguments of `campaign`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// In each, the runtime and a launch are killed at random moments. `cargo xtask test` runs 20.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Repeats the random numbers of another run.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; its progress is shown as it goes.
///
/// # Errors
/// When a promise was broken.
pub fn campaign(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the runtime needs root: run `cargo xtask campaign` as root");
    host::prepare()?;
    let mut settings = vec![("PINTLE_CAMPAIGN_ROUNDS", arguments.rounds.to_string())];
    settings.extend(arguments.seed.map(|seed| ("PINTLE_CAMPAIGN_SEED", seed.to_string())));
    test::host_ring("campaign", &settings)
}
