//! Commands that speak to machines.
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ctl::client::{Client, connect};
use ctl::generate::ClientConfig;
use machine::api;
use serde_json::json;

use crate::cli_apply::{Mode, apply};
use crate::cli_errors::explain;
use crate::cli_health::health;
use crate::cli_import::import;
use crate::cli_processes::processes;
use crate::cli_rows::{Output, Rows};
use crate::cli_service::{Service, service};

#[derive(Args)]
pub struct Target {
    /// Client config that `pintle gen config` wrote.
    #[arg(long, global = true, default_value = "pintleconfig", value_name = "FILE")]
    config: PathBuf,
    /// Machines to speak to, host or host:port; default: the client config's endpoints.
    #[arg(long, short, global = true, value_delimiter = ',', visible_alias = "endpoints")]
    nodes: Vec<String>,
}

/// How lists are printed.
#[derive(Args)]
pub struct Format {
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Subcommand)]
pub enum Node {
    /// Versions of Pintle, kernel and Kubernetes on each machine.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10 version --output json")]
    Version(Format),
    /// Give machines a new config; every fault is listed, and nothing changes if there is one.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 apply worker.yaml --dry-run")]
    Apply {
        file: PathBuf,
        /// Only say what would happen.
        #[arg(long)]
        dry_run: bool,
        /// Whether a change that takes a reboot gets it now, not at all, or at the next one.
        #[arg(long, value_enum, default_value = "auto")]
        mode: Mode,
        #[command(flatten)]
        format: Format,
    },
    /// Show what a machine has.
    #[command(subcommand)]
    Get(Get),
    /// Services of each machine.
    #[command(after_help = "Example:\n  pintle services")]
    Services(Format),
    /// Start, stop or restart a service.
    #[command(subcommand)]
    Service(Service),
    /// Memory and processor time of each machine's services.
    #[command(after_help = "Example:\n  pintle processes --output json")]
    Processes(Format),
    /// A service's log.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10 logs agent --follow --tail 20")]
    Logs {
        service: String,
        #[arg(long, short)]
        follow: bool,
        /// Last lines to begin with; -1: all.
        #[arg(long, default_value = "-1", allow_hyphen_values = true)]
        tail: i64,
    },
    /// The kernel's log.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10 dmesg")]
    Dmesg {
        #[arg(long, short)]
        follow: bool,
        /// Only what comes from now on.
        #[arg(long)]
        tail: bool,
    },
    /// What happened on each machine.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10 events --follow")]
    Events {
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Images of a machine's runtime.
    #[command(subcommand)]
    Image(Image),
    /// Reboot machines in good order.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 reboot")]
    Reboot {
        /// Without stopping pods.
        #[arg(long)]
        force: bool,
    },
    /// Power machines off in good order.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.11 shutdown")]
    Shutdown {
        /// Without stopping pods.
        #[arg(long)]
        force: bool,
    },
    /// Wait until machines are healthy, and say what is waited for.
    #[command(after_help = "Example:\n  pintle health --wait 0 --output json")]
    Health {
        /// Seconds to wait.
        #[arg(long, default_value = "300")]
        wait: u64,
        #[command(flatten)]
        format: Format,
    },
    /// The administrator's kubeconfig, from the first control-plane machine that has it.
    #[command(
        after_help = "Example:\n  pintle kubeconfig --output kubeconfig && kubectl --kubeconfig kubeconfig get nodes"
    )]
    Kubeconfig {
        /// File to write; `-` is standard output.
        #[arg(long, short, default_value = "-", value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum Get {
    /// The active machine config, without its secrets.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10 get config")]
    Config {
        #[arg(long)]
        with_secrets: bool,
    },
}

#[derive(Subcommand)]
pub enum Image {
    /// Import OCI-layout or docker archives.
    #[command(after_help = "Example:\n  pintle --nodes 10.5.0.10,10.5.0.11 image import app.tar")]
    Import {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
}

pub fn run(target: &Target, command: &Node) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(on_nodes(target, command))
}

async fn on_nodes(target: &Target, command: &Node) -> Result<()> {
    let text = std::fs::read_to_string(&target.config).with_context(|| {
        format!(
            "read the client config {}; give it with --config, `pintle gen config` makes it",
            target.config.display()
        )
    })?;
    let config: ClientConfig = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("read the client config {}", target.config.display()))?;
    let nodes = if target.nodes.is_empty() { config.endpoints.clone() } else { target.nodes.clone() };
    if nodes.is_empty() {
        bail!("no machine is named; use --nodes HOST, or put endpoints into {}", target.config.display());
    }
    let output = command.output();
    if nodes.len() > 1 && command.follows() {
        bail!("one machine is followed at a time; name it with --nodes");
    }
    let mut rows = Rows::new(output);
    let mut failed = 0;
    for node in &nodes {
        let result = match command {
            Node::Health { wait, .. } => health(&config, node, Duration::from_secs(*wait), &mut rows).await,
            command => match connect(&config, node).await {
                Ok(mut client) => one(&mut client, node, command, &mut rows).await,
                Err(error) => Err(error),
            },
        };
        match result {
            // Every control-plane machine has the same one.
            Ok(()) if matches!(command, Node::Kubeconfig { .. }) => return Ok(()),
            Ok(()) => {}
            Err(error) => {
                failed += 1;
                eprintln!("{node}: error: {error:#}");
            }
        }
    }
    rows.print();
    if failed > 0 {
        bail!("{failed} of {} machine(s) failed", nodes.len());
    }
    Ok(())
}

impl Node {
    fn output(&self) -> Output {
        match self {
            Self::Version(format)
            | Self::Services(format)
            | Self::Processes(format)
            | Self::Apply { format, .. }
            | Self::Events { format, .. }
            | Self::Health { format, .. }
            | Self::Image(Image::Import { format, .. }) => format.output,
            _ => Output::Table,
        }
    }

    fn follows(&self) -> bool {
        matches!(
            self,
            Self::Logs { follow: true, .. }
                | Self::Dmesg { follow: true, .. }
                | Self::Events { follow: true, .. }
        )
    }
}

async fn one(client: &mut Client, node: &str, command: &Node, rows: &mut Rows) -> Result<()> {
    match command {
        Node::Version(_) => {
            let v = client.version(api::VersionRequest {}).await.map_err(explain)?.into_inner();
            let headings = &["NODE", "PINTLE", "KERNEL", "KUBERNETES"];
            rows.add(
                node,
                headings,
                &["pintle", "kernel", "kubernetes"],
                &[v.pintle, v.kernel, v.kubernetes],
            );
        }
        Node::Services(_) => services(client, node, rows).await?,
        Node::Service(command) => service(client, node, command).await?,
        Node::Processes(_) => processes(client, node, rows).await?,
        Node::Apply { file, dry_run, mode, .. } => apply(client, node, file, *dry_run, *mode, rows).await?,
        Node::Get(Get::Config { with_secrets }) => {
            let request = api::GetConfigRequest { with_secrets: *with_secrets };
            let config = client.get_config(request).await.map_err(explain)?.into_inner();
            println!("# {node}, from {}", config.source);
            out(&config.yaml)?;
        }
        Node::Logs { service, follow, tail } => {
            let request = api::LogsRequest { service: service.clone(), follow: *follow, tail_lines: *tail };
            copy(client.logs(request).await.map_err(explain)?.into_inner()).await?;
        }
        Node::Dmesg { follow, tail } => {
            let request = api::DmesgRequest { follow: *follow, tail: *tail };
            copy(client.dmesg(request).await.map_err(explain)?.into_inner()).await?;
        }
        Node::Events { follow, .. } => {
            let request = api::EventsRequest { after_sequence: 0, follow: *follow };
            let mut events = client.events(request).await.map_err(explain)?.into_inner();
            while let Some(e) = events.message().await.map_err(explain)? {
                out(event(node, &e, rows.output).as_bytes())?;
            }
        }
        Node::Image(Image::Import { archives, .. }) => {
            for archive in archives {
                let names =
                    import(client, archive).await.with_context(|| format!("import {}", archive.display()))?;
                let text = format!("imported {}", names.join(", "));
                rows.say(node, &text, json!({"archive": archive, "names": names}));
            }
        }
        Node::Reboot { force } => {
            client.reboot(api::RebootRequest { force: *force }).await.map_err(explain)?;
            println!("{node}: reboots. Next: pintle --nodes {node} health");
        }
        Node::Shutdown { force } => {
            client.shutdown(api::ShutdownRequest { force: *force }).await.map_err(explain)?;
            println!("{node}: powers off");
        }
        Node::Kubeconfig { output } => {
            let data = client.kubeconfig(api::KubeconfigRequest {}).await.map_err(explain)?.into_inner().data;
            if output.as_os_str() == "-" {
                out(&data)?;
            } else {
                write_private(output, &data)?;
            }
        }
        Node::Health { .. } => {}
    }
    Ok(())
}

/// One event as a line: for a person with the time in UTC, or as JSON.
fn event(node: &str, e: &api::Event, output: Output) -> String {
    let time = jiff::Timestamp::from_millisecond(e.unix_ms)
        .map_or_else(|_| e.unix_ms.to_string(), |t| format!("{t:.3}"));
    match output {
        Output::Json => {
            let object = json!({"node": node, "sequence": e.sequence, "time": time, "source": e.source, "kind": e.kind, "message": e.message});
            format!("{object}\n")
        }
        Output::Table => {
            let message = e.message.replace(char::is_control, " ");
            format!("{node}  {time}  {}  {}  {message}\n", e.source, e.kind)
        }
    }
}

async fn services(client: &mut Client, node: &str, rows: &mut Rows) -> Result<()> {
    let list = client.services(api::ServicesRequest {}).await.map_err(explain)?.into_inner();
    for s in list.services {
        rows.add(
            node,
            &["NODE", "SERVICE", "STATE", "PID", "RESTARTS", "HANGS", "REASON"],
            &["service", "state", "pid", "restarts", "hangs", "reason"],
            &[s.name, s.state, s.pid.to_string(), s.restarts.to_string(), s.hangs.to_string(), s.reason],
        );
    }
    Ok(())
}

async fn copy(mut stream: tonic::Streaming<api::Data>) -> Result<()> {
    while let Some(part) = stream.message().await.map_err(explain)? {
        out(&part.data)?;
    }
    Ok(())
}

fn out(data: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(data).and_then(|()| stdout.flush()).context("write to standard output")
}

fn write_private(file: &PathBuf, data: &[u8]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(data))
        .with_context(|| format!("write {}", file.display()))?;
    println!("Wrote {0}. Next: kubectl --kubeconfig {0} get nodes", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_event_is_one_line_for_people_and_programs() {
        let e = api::Event {
            sequence: 7,
            unix_ms: 1_790_000_000_123,
            source: "disk".into(),
            kind: "Formatting".into(),
            message: "a\nb".into(),
        };
        assert_eq!(event("n", &e, Output::Table), "n  2026-09-21T14:13:20.123Z  disk  Formatting  a b\n");
        let line = event("n", &e, Output::Json);
        assert_eq!(line.lines().count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&read["sequence"], &read["message"]), (&json!(7), &json!("a\nb")));
    }
}
