//! `pintle`: parses arguments, calls the library, prints. Errors go to stderr and end with status 1; a bad command line with 2.
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli_gen;
mod cli_validate;

/// Manage Pintle machines: make their config, see what they do, change them.
#[derive(Parser)]
#[command(name = "pintle", version, max_term_width = 100)]
#[command(after_help = "Examples:
  pintle gen secrets --output secrets.yaml
  pintle gen config demo https://10.5.0.10:6443 --secrets secrets.yaml --output-dir .
  pintle validate control-plane.yaml worker.yaml")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the secrets, the machine config and the client config of a new cluster.
    #[command(subcommand)]
    Gen(cli_gen::Gen),
    /// Check machine config files and list every fault with file, line and column.
    Validate(cli_validate::Validate),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Gen(command) => cli_gen::run(command),
        Command::Validate(command) => cli_validate::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
