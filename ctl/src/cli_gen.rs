use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use ctl::generate::{Options, Patch, Secrets, generate, parse_documents};

#[derive(Subcommand)]
pub enum Gen {
    /// Make every CA, key and token of a new cluster. Keep the file safe: whoever has it owns the cluster.
    Secrets {
        /// File to write; it must not exist.
        #[arg(short, long, default_value = "secrets.yaml")]
        output: PathBuf,
        /// Replace an existing file. A running cluster's secrets cannot be brought back.
        #[arg(long)]
        force: bool,
    },
    /// Make control-plane.yaml, worker.yaml and pintleconfig.
    Config(Box<ConfigArgs>),
}

#[derive(Args)]
#[command(after_help = "Example:
  pintle gen config demo https://10.5.0.10:6443 --secrets secrets.yaml --output-dir out --patch site.yaml")]
pub struct ConfigArgs {
    /// Name of the cluster, a DNS label.
    cluster: String,
    /// How every node reaches the API server: https://HOST:PORT, HOST:PORT or HOST (port 6443).
    endpoint: String,
    /// File that `pintle gen secrets` wrote.
    #[arg(long, default_value = "secrets.yaml")]
    secrets: PathBuf,
    #[arg(short, long, visible_alias = "output", default_value = ".")]
    output_dir: PathBuf,
    /// Address range of pods; once per IP family.
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    pod_cidrs: Vec<ipnet::IpNet>,
    /// Address range of Services; once per IP family.
    #[arg(long = "service-cidr", value_name = "CIDR")]
    service_cidrs: Vec<ipnet::IpNet>,
    #[arg(long)]
    dns_domain: Option<String>,
    /// Further DNS name or address in the API server's certificate.
    #[arg(long = "san", value_name = "NAME")]
    sans: Vec<String>,
    /// Let pods without a toleration run on control-plane nodes.
    #[arg(long)]
    schedule_on_control_plane: bool,
    /// Documents laid over both configs: one that a config holds once is merged, others are appended.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
    #[arg(long, value_name = "FILE")]
    patch_control_plane: Vec<PathBuf>,
    #[arg(long, value_name = "FILE")]
    patch_worker: Vec<PathBuf>,
    /// Replace existing files.
    #[arg(long)]
    force: bool,
}

pub fn run(command: Gen) -> Result<()> {
    match command {
        Gen::Secrets { output, force } => {
            let secrets = Secrets::new(SystemTime::now()).context("make the secrets")?;
            write(&output, &serde_yaml_ng::to_string(&secrets)?, force)?;
            println!(
                "Wrote {}. Keep it safe. Next: pintle gen config CLUSTER ENDPOINT --secrets {0}",
                output.display()
            );
            Ok(())
        }
        Gen::Config(args) => config(&args),
    }
}

fn config(args: &ConfigArgs) -> Result<()> {
    let text = std::fs::read_to_string(&args.secrets).with_context(|| {
        format!("read the secrets {}; `pintle gen secrets --output {0}` makes them", args.secrets.display())
    })?;
    let secrets: Secrets = serde_yaml_ng::from_str(&text).with_context(|| {
        format!("read the secrets {}; `pintle gen secrets` shows which a cluster has", args.secrets.display())
    })?;
    let options = Options {
        cluster: args.cluster.clone(),
        endpoint: args.endpoint.clone(),
        pod_cidrs: args.pod_cidrs.clone(),
        service_cidrs: args.service_cidrs.clone(),
        dns_domain: args.dns_domain.clone(),
        sans: args.sans.clone(),
        schedule_on_control_plane: args.schedule_on_control_plane,
        patch: patch(&args.patch)?,
        control_plane_patch: patch(&args.patch_control_plane)?,
        worker_patch: patch(&args.patch_worker)?,
    };
    let files = generate(&options, &secrets)?;
    std::fs::create_dir_all(&args.output_dir)
        .with_context(|| format!("make {}", args.output_dir.display()))?;
    let client = serde_yaml_ng::to_string(&files.client)?;
    for (name, content) in [
        ("control-plane.yaml", &files.control_plane),
        ("worker.yaml", &files.worker),
        ("pintleconfig", &client),
    ] {
        write(&args.output_dir.join(name), content, args.force)?;
    }
    println!(
        "Wrote control-plane.yaml, worker.yaml and pintleconfig to {}. Give each machine its file, then: pintle --config {}/pintleconfig health",
        args.output_dir.display(),
        args.output_dir.display(),
    );
    Ok(())
}

fn patch(files: &[PathBuf]) -> Result<Patch> {
    let mut documents = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read the patch {}", file.display()))?;
        documents.extend(parse_documents(&file.display().to_string(), &text)?);
    }
    Ok(Patch(documents))
}

/// Every file holds a key, so only its owner may read it.
fn write(path: &Path, content: &str, force: bool) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = options
        .open(path)
        .with_context(|| format!("write {}; --force replaces an existing file", path.display()))?;
    file.write_all(content.as_bytes()).with_context(|| format!("write {}", path.display()))
}
