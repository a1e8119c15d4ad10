//! `cargo xtask`: everything a developer does with Pintle.
mod artifacts;
mod bench;
mod boot;
mod campaign;
mod checks;
mod cni;
mod conformance;
mod critest;
mod debian;
mod demo;
mod down;
mod fuzz;
mod go;
mod heavy;
mod host;
mod image;
mod imports;
mod node;
mod oci;
mod power_cuts;
mod proto;
mod test;
mod up;

use std::path::PathBuf;

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
    /// Builds everything, boots a cluster in QEMU and deploys a demo.
    Up(up::Arguments),
    /// Ends the cluster's machines; their disks stay.
    Down {
        /// Cuts the power instead of pressing the power button.
        #[arg(long)]
        now: bool,
    },
    /// Shows a node's console and follows it.
    Console {
        /// Name or number.
        node: String,
        /// Prints what is there and ends.
        #[arg(long)]
        no_follow: bool,
    },
    /// Shows a node's logs: of one service, or its whole console.
    Logs {
        /// Name or number.
        node: String,
        /// Such as `agent` or `runtime`.
        service: Option<String>,
        #[arg(long, short)]
        follow: bool,
    },
    /// Imports OCI or docker archives into every node.
    Load {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Runs `pintle` against a node.
    Pintle {
        /// Name or number.
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Builds the OS as disk image, ISO, PXE set or unified kernel image.
    Image(image::Arguments),
    /// Runs all tests.
    Test(test::Arguments),
    /// Fuzzes one target and keeps what it finds.
    Fuzz(fuzz::Arguments),
    /// Boots one machine with its console on standard output, until it is off.
    Boot(boot::Arguments),
    /// Kills the runtime and its launches 200 times while clients work, and checks every promise.
    Campaign(campaign::Arguments),
    /// Records what a machine writes to its disk while it gets images, and starts the runtime on the disk as 120 power cuts would have left it.
    PowerCuts(power_cuts::Arguments),
    /// Regenerates the checked-in Rust of the protocols (needs protoc).
    GenProto,
    /// The runtime in a booted image against critest.
    Critest(critest::Arguments),
    /// Kubernetes' conformance specs against a cluster.
    Conformance(conformance::Arguments),
    /// Figures beside their targets and those of the peers.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Up(arguments) => up::up(&arguments),
        Command::Down { now } => down::down(now),
        Command::Console { node, no_follow } => node::console(&node, !no_follow),
        Command::Logs { node, service, follow } => node::logs(&node, service.as_deref(), follow),
        Command::Load { archives } => node::load(&archives),
        Command::Pintle { node, arguments } => node::pintle(&node, &arguments),
        Command::Image(arguments) => image::image(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Boot(arguments) => boot::boot(&arguments),
        Command::Campaign(arguments) => campaign::campaign(&arguments),
        Command::PowerCuts(arguments) => power_cuts::power_cuts(&arguments),
        Command::GenProto => proto::generate(),
        Command::Conformance(arguments) => conformance::conformance(&arguments),
        Command::Critest(arguments) => critest::critest(&arguments),
        Command::Bench(what) => bench::bench(&what),
    }
}
