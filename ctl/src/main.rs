//! `pintle`: parses arguments, calls the library, prints. Errors go to stderr and end with status 1; a bad command line with 2.
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod cli_apply;
mod cli_errors;
mod cli_gen;
mod cli_health;
mod cli_import;
mod cli_node;
mod cli_processes;
mod cli_rows;
mod cli_service;
mod cli_validate;

/// Manage Pintle machines: make their config, see what they do, change them.
#[derive(Parser)]
#[command(name = "pintle", version, max_term_width = 100)]
#[command(after_help = "Examples:
  pintle gen secrets --output secrets.yaml
  pintle gen config demo https://10.5.0.10:6443 --secrets secrets.yaml --output-dir .
  pintle validate control-plane.yaml worker.yaml
  pintle --nodes 10.5.0.10 health
  pintle --nodes 10.5.0.10,10.5.0.11 services --output json
  pintle --nodes 10.5.0.10 logs agent --follow
  pintle --nodes 10.5.0.10 apply control-plane.yaml --dry-run")]
struct Cli {
    #[command(flatten)]
    target: cli_node::Target,
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
    /// Print the reference page of the machine config (Markdown), or its JSON Schema.
    ConfigReference {
        #[arg(long)]
        schema: bool,
    },
    #[command(flatten)]
    Node(cli_node::Node),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Gen(command) => cli_gen::run(command),
        Command::Validate(command) => cli_validate::run(&command),
        Command::ConfigReference { schema } => {
            if schema {
                println!("{:#}", machine::config::schema());
            } else {
                print!("{}", ctl::reference::markdown());
            }
            Ok(())
        }
        Command::Node(command) => cli_node::run(&cli.target, &command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
