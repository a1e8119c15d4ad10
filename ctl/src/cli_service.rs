//! `pintle service`.
use anyhow::Result;
use clap::Subcommand;
use ctl::client::Client;
use machine::api::{ServiceActionRequest, service_action_request::Action};

use crate::cli_errors::explain;

#[derive(Subcommand)]
pub enum Service {
    /// Start a service that was stopped.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 service start agent")]
    Start { name: String },
    /// Stop a service until it is started again or the machine boots; pods run on without the agent and the runtime.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 service stop agent")]
    Stop { name: String },
    /// Stop a service and start it again.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 service restart runtime")]
    Restart { name: String },
}

/// Asks for it; the machine acts on its own time, which `pintle services` shows.
pub async fn service(client: &mut Client, node: &str, command: &Service) -> Result<()> {
    let (name, action, verb) = match command {
        Service::Start { name } => (name, Action::Start, "starts"),
        Service::Stop { name } => (name, Action::Stop, "stops"),
        Service::Restart { name } => (name, Action::Restart, "restarts"),
    };
    let request = ServiceActionRequest { name: name.clone(), action: action.into() };
    client.service_action(request).await.map_err(explain)?;
    println!("{node}: {verb} {name}");
    Ok(())
}
