//! `cargo xtask campaign`: what is done to a node for long, to see whether it keeps its promises.
use anyhow::{Result, ensure};

use crate::test::HostilePods;
use crate::{host, test};

/// Arguments of `campaign`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask campaign\n  cargo xtask campaign --rounds 1 --seed 7\n  cargo xtask campaign hostile-pods --only fill-hosts --seconds 30"
)]
pub struct Arguments {
    /// In each, the runtime and a launch are killed at random moments. `cargo xtask test` runs 20.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Repeats the random numbers of another run.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    other: Option<Other>,
}

/// Campaigns beside that of kills.
#[derive(Debug, Clone, clap::Subcommand)]
enum Other {
    /// Pods that want to harm their node, on a cluster of two machines: each kind alone, then all of a group, while a bystander's pods are timed.
    HostilePods(HostilePods),
}

/// Runs one; its progress is shown as it goes.
///
/// # Errors
/// When a promise was broken.
pub fn campaign(arguments: &Arguments) -> Result<()> {
    host::prepare()?;
    if let Some(Other::HostilePods(arguments)) = &arguments.other {
        return test::hostile_pods(arguments);
    }
    ensure!(nix::unistd::geteuid().is_root(), "the runtime needs root: run `cargo xtask campaign` as root");
    let mut settings = vec![("PINTLE_CAMPAIGN_ROUNDS", arguments.rounds.to_string())];
    settings.extend(arguments.seed.map(|seed| ("PINTLE_CAMPAIGN_SEED", seed.to_string())));
    test::host_ring("campaign", &settings)
}
