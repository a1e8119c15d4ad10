//! `cargo xtask`: everything a developer does with Pintle.
mod artifacts;
mod boot;
mod host;
mod proto;

use clap::{Parser, Subcommand};

/// Builds, boots and tests Pintle.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots one machine with its console on standard output, until it is off.
    Boot(boot::Arguments),
    /// Regenerates the checked-in Rust of the protocols (needs protoc).
    GenProto,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Boot(arguments) => boot::boot(&arguments),
        Command::GenProto => proto::generate(),
    }
}
