//! The rings in virtual machines; they boot one image.
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use qemu_tests::cluster::Programs;
use qemu_tests::command::command_output;

use super::{Arguments, Counts, STOCK_KUBELET, counts_of};
use crate::conformance::{self, Handful, StockKubelet};
use crate::{artifacts, boot, host, up};

/// Arguments of `campaign hostile-pods`.
#[derive(Debug, Clone, clap::Args)]
pub struct HostilePods {
    /// Only kinds whose name contains this; `together` are the groups.
    #[arg(long)]
    pub only: Option<String>,
    /// How long each kind runs alone.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How long all of a group run together.
    #[arg(long, default_value_t = 10)]
    pub minutes: u64,
    /// Takes the cluster that the last such run left, and leaves it running.
    #[arg(long)]
    pub reuse: bool,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    pub image: Option<PathBuf>,
}

/// What every case needs.
struct Built {
    cases: PathBuf,
    image: PathBuf,
    pintle: PathBuf,
    inspector: PathBuf,
}

impl Built {
    fn new(arguments: &Arguments, kubernetes: bool) -> Result<Self> {
        let image = match &arguments.image {
            Some(folder) => folder.clone(),
            None => {
                let flavour = artifacts::Flavour { debug: false, without_kubernetes: !kubernetes };
                boot::build(flavour, "none").context("build the image for the QEMU rings")?
            }
        };
        Ok(Self {
            cases: artifacts::host_program("qemu-tests")?,
            image,
            pintle: artifacts::host_program("pintle")?,
            inspector: artifacts::static_program("inspector", "node-inspector")?,
        })
    }
}

/// What Go builds for the cluster: ten minutes of two processors, nicely and from the start, so that it takes those that other rings leave idle.
#[derive(Debug)]
pub struct Ahead(Option<JoinHandle<()>>);

impl Ahead {
    /// Starts, if this run will come to the whole cluster ring.
    pub fn start(wanted: bool) -> Self {
        // Whoever needs what does not build comes to the same fault, and tells it.
        let build = || {
            if artifacts::kubernetes().is_ok() {
                drop(conformance::build_programs());
            }
        };
        Self(wanted.then(|| std::thread::spawn(build)))
    }

    fn wait(self) {
        if let Self(Some(thread)) = self {
            drop(thread.join());
        }
    }
}

/// Builds, then runs the cases with machines of their own, the stories that share a cluster, or both.
pub fn run(arguments: &Arguments, machines: bool, cluster: bool, ahead: Ahead) -> Result<Counts> {
    let is_wanted = |ring: &str, wanted: bool| match &arguments.only {
        Some(only) if wanted => has_case(ring, only),
        _ => Ok(wanted),
    };
    let (machines, cluster) = (is_wanted("machine", machines)?, is_wanted("cluster", cluster)?);
    if !machines && !cluster {
        return Ok(Counts::default());
    }
    if arguments.image.is_none() {
        artifacts::rust(false)?;
    }
    ahead.wait();
    let built = Built::new(arguments, cluster)?;
    let mut counts = Counts::default();
    if machines {
        counts.add(cases(&mut command(arguments, &built, "machine"), "machine: ")?);
    }
    if cluster {
        counts.add(stories(arguments, &built)?);
    }
    Ok(counts)
}

/// Whether the ring has a case whose name contains this.
fn has_case(ring: &str, only: &str) -> Result<bool> {
    let mut names = Command::new(artifacts::host_program("qemu-tests")?);
    let names = command_output(names.args(["names", "--ring", ring]))?;
    Ok(names.lines().any(|name| name.contains(only)))
}

/// Builds, then runs the stories of the stock kubelet.
pub fn stock_kubelet(arguments: &Arguments) -> Result<Counts> {
    let built = Built::new(arguments, true)?;
    let stock = StockKubelet::prepare().context("build the stock kubelet and its images")?;
    let mut command = of_cluster(arguments, &built, STOCK_KUBELET)?;
    command.args(["--nodes", "2", "--mirror", &stock.mirror()]);
    cases(&mut command, "stock-kubelet: ")
}

/// Builds, then has hostile pods on a cluster.
pub fn hostile_pods(arguments: &HostilePods) -> Result<Counts> {
    let own = Arguments {
        only: arguments.only.clone(),
        reuse: arguments.reuse,
        image: arguments.image.clone(),
        ..Arguments::default()
    };
    let built = Built::new(&own, true)?;
    let mut command = of_cluster(&own, &built, "hostile-pods")?;
    command.args(["--nodes", "2"]);
    command.args(["--seconds", &arguments.seconds.to_string(), "--minutes", &arguments.minutes.to_string()]);
    cases(&mut command, "hostile-pods: ")
}

fn artifacts_folder() -> PathBuf {
    host::target().join("qemu-tests")
}

fn command(arguments: &Arguments, built: &Built, ring: &str) -> Command {
    let mut command = Command::new(&built.cases);
    command.arg(ring).arg("--image").arg(&built.image);
    command.arg("--artifacts").arg(artifacts_folder());
    command.arg("--pintle").arg(&built.pintle).arg("--inspector").arg(&built.inspector);
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    command
}

/// As [`command`], for a ring whose stories share a cluster.
fn of_cluster(arguments: &Arguments, built: &Built, ring: &str) -> Result<Command> {
    let mut command = command(arguments, built, ring);
    command.arg("--kubectl").arg(kubectl()?);
    if arguments.reuse {
        command.args(["--reuse", "yes", "--keep", "yes"]);
    }
    Ok(command)
}

fn kubectl() -> Result<PathBuf> {
    up::tool(&artifacts::kubernetes()?, "kubectl")
}

/// The stories, and in their cluster a handful of Kubernetes' specs, unless one story is written or run alone.
fn stories(arguments: &Arguments, built: &Built) -> Result<Counts> {
    let mut command = of_cluster(arguments, built, "cluster")?;
    command.args(["--nodes", &arguments.nodes.to_string(), "--rounds", &arguments.rounds.to_string()]);
    if arguments.reuse || arguments.only.is_some() {
        return cases(&mut command, "cluster: ");
    }
    let handful = Handful::prepare().context("build Kubernetes' specs and their images")?;
    command.args(["--keep", "yes", "--mirror", &handful.mirror()]);
    let cluster = artifacts_folder().join("cluster");
    let ran = cases(&mut command, "cluster: ");
    let mut counts = ran.unwrap_or_else(|fault| failed("the cluster's stories", &fault));
    counts.add(specs(&handful, &cluster, Programs { pintle: built.pintle.clone(), kubectl: kubectl()? }));
    Ok(counts)
}

fn specs(handful: &Handful, cluster: &Path, programs: Programs) -> Counts {
    let counts = match handful.run(cluster, programs) {
        Ok(outcomes) => {
            let [passed, failed, skipped] = conformance::counts(&outcomes);
            Counts { passed, failed, skipped, repeated: 0 }
        }
        Err(fault) => failed("Kubernetes' specs", &fault),
    };
    println!("specs: {} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    counts
}

fn failed(what: &str, fault: &anyhow::Error) -> Counts {
    println!("FAILED   {what}: {fault:#}");
    Counts { failed: 1, ..Counts::default() }
}

/// Runs the program of the cases, shows what it prints as it comes, and reads its closing line.
pub fn cases(command: &mut Command, prefix: &str) -> Result<Counts> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("run the QEMU cases")?;
    let mut counts = None;
    for line in BufReader::new(child.stdout.take().context("the cases' output")?).lines() {
        let line = line.context("read the cases' output")?;
        counts = line.strip_prefix(prefix).and_then(counts_of).or(counts);
        println!("{line}");
    }
    child.wait()?;
    counts.context("the QEMU cases ended without a result")
}
