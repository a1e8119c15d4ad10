//! Commands that speak to machines.
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use ctl::client::{Client, connect};
use ctl::generate::ClientConfig;
use ctl::table::table;
use machine::api;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// Bytes of an image sent at once.
const CHUNK: usize = 256 << 10;

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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    Auto,
    NoReboot,
    Reboot,
    Staged,
}

#[derive(Subcommand)]
pub enum Node {
    /// Versions of Pintle, kernel and Kubernetes on each machine.
    Version(Format),
    /// Give machines a new config; every fault is listed, and nothing changes if there is one.
    Apply {
        file: PathBuf,
        /// Only say what would happen.
        #[arg(long)]
        dry_run: bool,
        #[arg(long, value_enum, default_value = "auto")]
        mode: Mode,
    },
    /// Show what a machine has.
    #[command(subcommand)]
    Get(Get),
    /// Services of each machine.
    Services(Format),
    /// Memory and processor time of each machine's services.
    Processes(Format),
    /// A service's log.
    Logs {
        service: String,
        #[arg(long, short)]
        follow: bool,
        /// Last lines to begin with; -1: all.
        #[arg(long, default_value = "-1", allow_hyphen_values = true)]
        tail: i64,
    },
    /// The kernel's log.
    Dmesg {
        #[arg(long, short)]
        follow: bool,
        /// Only what comes from now on.
        #[arg(long)]
        tail: bool,
    },
    /// What happened on each machine.
    Events {
        #[arg(long, short)]
        follow: bool,
    },
    /// Images of a machine's runtime.
    #[command(subcommand)]
    Image(Image),
    /// Reboot machines in good order.
    Reboot {
        /// Without stopping pods.
        #[arg(long)]
        force: bool,
    },
    /// Power machines off in good order.
    Shutdown {
        /// Without stopping pods.
        #[arg(long)]
        force: bool,
    },
    /// Wait until machines are healthy, and say what is waited for.
    Health {
        /// Seconds to wait.
        #[arg(long, default_value = "300")]
        wait: u64,
    },
    /// The administrator's kubeconfig, from a control-plane machine.
    Kubeconfig {
        /// File to write; `-` is standard output.
        #[arg(long, short, default_value = "-", value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum Get {
    /// The active machine config, without its secrets.
    Config {
        #[arg(long)]
        with_secrets: bool,
    },
}

#[derive(Subcommand)]
pub enum Image {
    /// Import OCI-layout or docker archives.
    Import { archives: Vec<PathBuf> },
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
    let output = match command {
        Node::Version(format) | Node::Services(format) | Node::Processes(format) => format.output,
        _ => Output::Table,
    };
    let mut rows = Rows { output, headings: &[], rows: Vec::new(), json: Vec::new() };
    let mut failed = 0;
    for node in &nodes {
        let result = match command {
            Node::Health { wait } => health(&config, node, Duration::from_secs(*wait)).await,
            command => match connect(&config, node).await {
                Ok(mut client) => one(&mut client, node, command, &mut rows).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            failed += 1;
            eprintln!("{node}: error: {error:#}");
        }
    }
    rows.print();
    if failed > 0 {
        bail!("{failed} of {} machine(s) failed", nodes.len());
    }
    Ok(())
}

/// What is printed once, when every machine has answered.
struct Rows {
    output: Output,
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
    json: Vec<Value>,
}

impl Rows {
    fn add(&mut self, node: &str, headings: &'static [&'static str], names: &[&str], values: &[String]) {
        self.headings = headings;
        self.rows.push(std::iter::once(node.to_owned()).chain(values.iter().cloned()).collect());
        let mut object = json!({"node": node});
        for (name, value) in names.iter().zip(values) {
            object[*name] = json!(value);
        }
        self.json.push(object);
    }

    fn print(&self) {
        match self.output {
            Output::Json if !self.json.is_empty() => println!("{:#}", Value::Array(self.json.clone())),
            Output::Table if !self.rows.is_empty() => print!("{}", table(self.headings, &self.rows)),
            _ => {}
        }
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
        Node::Processes(_) => processes(client, node, rows).await?,
        Node::Apply { file, dry_run, mode } => apply(client, node, file, *dry_run, *mode).await?,
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
        Node::Events { follow } => {
            let request = api::EventsRequest { after_sequence: 0, follow: *follow };
            let mut events = client.events(request).await.map_err(explain)?.into_inner();
            while let Some(e) = events.message().await.map_err(explain)? {
                let message = e.message.replace(char::is_control, " ");
                out(format!("{node}  {}  {}  {}  {message}\n", e.unix_ms, e.source, e.kind).as_bytes())?;
            }
        }
        Node::Image(Image::Import { archives }) => {
            for archive in archives {
                let names =
                    import(client, archive).await.with_context(|| format!("import {}", archive.display()))?;
                println!("{node}: imported {}", names.join(", "));
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

async fn services(client: &mut Client, node: &str, rows: &mut Rows) -> Result<()> {
    let list = client.services(api::ServicesRequest {}).await.map_err(explain)?.into_inner();
    for s in list.services {
        rows.add(
            node,
            &["NODE", "SERVICE", "STATE", "PID", "RESTARTS", "REASON"],
            &["service", "state", "pid", "restarts", "reason"],
            &[s.name, s.state, s.pid.to_string(), s.restarts.to_string(), s.reason],
        );
    }
    Ok(())
}

/// The table is for people; JSON has bytes and each service's whole processor time.
async fn processes(client: &mut Client, node: &str, rows: &mut Rows) -> Result<()> {
    let list = client.processes(api::ProcessesRequest {}).await.map_err(explain)?.into_inner();
    rows.headings = &["NODE", "SERVICE", "PID", "COMMAND", "PSS", "RSS", "CPU", "THREADS"];
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    for service in list.services {
        for p in &service.processes {
            let cells = [
                node.to_owned(),
                service.service.clone(),
                p.pid.to_string(),
                p.command.clone(),
                mib(p.pss_bytes),
                mib(p.rss_bytes),
                format!("{:.2} s", p.cpu_seconds),
                p.threads.to_string(),
            ];
            rows.rows.push(cells.to_vec());
        }
        let processes = service.processes.iter().map(|p| {
            json!({"pid": p.pid, "command": p.command, "pssBytes": p.pss_bytes, "rssBytes": p.rss_bytes,
                "cpuSeconds": p.cpu_seconds, "threads": p.threads})
        });
        rows.json.push(json!({"node": node, "service": service.service, "cpuSeconds": service.cpu_seconds,
            "processes": processes.collect::<Vec<_>>()}));
    }
    Ok(())
}

async fn apply(client: &mut Client, node: &str, file: &PathBuf, dry_run: bool, mode: Mode) -> Result<()> {
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
        println!("{node}: warning: {warning}");
    }
    for f in &result.faults {
        println!("{}:{}:{}: {}: {}; {}", file.display(), f.line, f.column, f.field, f.message, f.remedy);
    }
    if !result.faults.is_empty() {
        bail!("the config has {} fault(s); nothing was changed", result.faults.len());
    }
    println!("{node}: {}{}", result.action, if dry_run { " (dry run)" } else { "" });
    Ok(())
}

async fn import(client: &mut Client, archive: &PathBuf) -> Result<Vec<String>> {
    let mut file = tokio::fs::File::open(archive).await.context("open the archive")?;
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let reader = async move {
        loop {
            let mut data = vec![0_u8; CHUNK];
            let length = file.read(&mut data).await?;
            data.truncate(length);
            if length == 0 || send.send(api::Data { data: data.into() }).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    let call = client.image_import(tokio_stream::wrappers::ReceiverStream::new(receive));
    let (read, answer) = tokio::join!(reader, call);
    let names = answer.map_err(explain)?.into_inner().names;
    read.context("read the archive")?;
    Ok(names)
}

/// Asks until everything is healthy; prints each change of what is waited for.
async fn health(config: &ClientConfig, node: &str, wait: Duration) -> Result<()> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut said = String::new();
    loop {
        let waiting = match look(config, node).await {
            Ok(waiting) if waiting.is_empty() => {
                println!("{node}: healthy");
                return Ok(());
            }
            Ok(waiting) => waiting.join("; "),
            Err(error) => format!("{error:#}"),
        };
        if waiting != said {
            println!("{node}: waiting for {waiting}");
            said = waiting;
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "not healthy within {} s; waited for {said}. Next: pintle --nodes {node} services",
                wait.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

async fn look(config: &ClientConfig, node: &str) -> Result<Vec<String>> {
    let mut client = connect(config, node).await?;
    let report = client.health(api::HealthRequest {}).await.map_err(explain)?.into_inner();
    if report.conditions.is_empty() {
        return Ok(vec!["the machine's first report".into()]);
    }
    let bad = report.conditions.into_iter().filter(|condition| !condition.ok);
    Ok(bad
        .map(|c| format!("{} ({}: {})", c.name, c.reason, c.message.replace(char::is_control, " ")))
        .collect())
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

/// A status as a person reads it, with what to do.
fn explain(status: tonic::Status) -> anyhow::Error {
    let hint = match status.code() {
        tonic::Code::PermissionDenied => "; use a client config with the role",
        tonic::Code::Unavailable => "; `pintle health` waits until the machine answers",
        _ => "",
    };
    anyhow!("{}{hint}", status.message())
}
