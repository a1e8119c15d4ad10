//! `cargo xtask up`: from sources to a cluster with a pod that answers.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::cluster::{Layout, Programs};
use qemu_tests::{Accel, Cluster, Progress, Vm};

use crate::artifacts::{self, Flavour};
use crate::{demo, down, host};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Machines in all.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    /// How many of them run the control plane; 1 is what there is.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    control_planes: u8,
    /// Memory of a control-plane machine in MiB; a worker gets half.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Processors of a machine.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    #[arg(long, value_enum, default_value = "auto")]
    accel: AccelChoice,
    /// Throws the old cluster's disks and secrets away.
    #[arg(long)]
    recreate: bool,
    /// Leaves the demo out.
    #[arg(long)]
    without_demo: bool,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    #[command(flatten)]
    flavour: Flavour,
}

/// How QEMU runs guests.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AccelChoice {
    /// KVM where it works.
    Auto,
    Kvm,
    Tcg,
}

impl AccelChoice {
    fn choose(self) -> Accel {
        match self {
            Self::Auto => Accel::detect(),
            Self::Kvm => Accel::Kvm,
            Self::Tcg => Accel::Tcg,
        }
    }
}

/// What was built.
struct Built {
    image: PathBuf,
    programs: Programs,
}

/// Builds, boots, waits and deploys.
///
/// # Errors
/// When a phase fails or is not done by its deadline; the message names the blocker.
pub fn up(arguments: &Arguments) -> Result<()> {
    ensure!(
        !arguments.flavour.without_kubernetes,
        "a cluster needs the Kubernetes binary; `cargo xtask boot` takes --without-kubernetes"
    );
    let progress = Progress::start();
    progress.step("checking the host", host::prepare)?;
    let built = build(arguments, &progress)?;
    let cluster = start(arguments, built, &progress)?;
    let patience = arguments.accel.choose().patience();
    cluster.wait_for_machines(&progress, patience)?;
    cluster.wait_for_nodes(&progress, patience)?;
    let answer =
        if arguments.without_demo { None } else { Some(demo::run(&cluster.kubectl(), &progress, patience)?) };
    report(&cluster, answer.as_deref(), &progress)
}

fn build(arguments: &Arguments, progress: &Progress) -> Result<Built> {
    let (image, pintle, kubernetes) =
        build_all(arguments.image.as_deref(), arguments.flavour.debug, progress)?;
    let kubectl = tool(&kubernetes, "kubectl")?;
    Ok(Built { image, programs: Programs { pintle, kubectl } })
}

/// Builds what a cluster boots from, unless an image is given: the image, `pintle` and the Kubernetes binary. Go and Rust build at once: each by itself
/// leaves a processor idle for much of its time.
///
/// # Errors
/// When a part does not build.
pub fn build_all(
    image: Option<&Path>,
    debug: bool,
    progress: &Progress,
) -> Result<(PathBuf, PathBuf, PathBuf)> {
    std::thread::scope(|scope| {
        let kubernetes = scope.spawn(artifacts::kubernetes);
        let binaries = match image {
            Some(_) => None,
            None => {
                Some(progress.step("building the OS's executables (Kubernetes beside them)", || {
                    artifacts::rust(debug)
                })?)
            }
        };
        let pintle = progress.step("building pintle and the image's builder", || {
            artifacts::host_program("image-builder")?;
            artifacts::host_program("pintle")
        })?;
        let kubernetes = progress.step("building Kubernetes", || {
            kubernetes.join().map_err(|_| anyhow::anyhow!("the thread that builds Kubernetes panicked"))?
        })?;
        let image = match (image, binaries) {
            (Some(folder), _) => folder.to_path_buf(),
            (None, binaries) => {
                let binaries = binaries.context("the OS's executables")?;
                progress
                    .step("building the image", || artifacts::image(&binaries, Some(&kubernetes), "none"))?
            }
        };
        Ok((image, pintle, kubernetes))
    })
}

/// The cluster that `up` started.
///
/// # Errors
/// When there is none.
pub fn running() -> Result<Cluster> {
    let programs = Programs {
        pintle: artifacts::host_program("pintle")?,
        kubectl: host::cluster_folder().join("kubectl"),
    };
    Cluster::load(&host::cluster_folder(), programs)?.context("no cluster; start one with `cargo xtask up`")
}

/// A link by which the Kubernetes binary knows what it is to be.
pub fn tool(kubernetes: &Path, name: &str) -> Result<PathBuf> {
    let folder = host::cluster_folder();
    std::fs::create_dir_all(&folder)?;
    let link = folder.join(name);
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(kubernetes, &link)
        .with_context(|| format!("make the link {}", link.display()))?;
    Ok(link)
}

fn start(arguments: &Arguments, built: Built, progress: &Progress) -> Result<Cluster> {
    let old = Cluster::load(&host::cluster_folder(), built.programs.clone())?;
    if arguments.recreate {
        progress.step("removing the old cluster", down::remove)?;
    } else if let Some(old) = old.filter(|old| old.state.nodes.iter().any(Vm::runs)) {
        let nodes = &old.state.nodes;
        let same = old.state.image == built.image && nodes.len() == usize::from(arguments.nodes);
        if same && nodes.iter().all(Vm::runs) {
            println!("the machines run already");
            return Ok(old);
        }
        bail!(
            "another cluster runs; end it with `cargo xtask down`, or replace it with `cargo xtask up --recreate`"
        );
    }
    let layout = Layout {
        nodes: arguments.nodes,
        control_planes: arguments.control_planes,
        memory: arguments.memory,
        processors: arguments.cpus,
        accel: arguments.accel.choose(),
        ..Layout::default()
    };
    progress.step("starting the machines", || {
        Cluster::start(&host::cluster_folder(), &layout, &built.image, built.programs)
    })
}

fn report(cluster: &Cluster, answer: Option<&str>, progress: &Progress) -> Result<()> {
    let kubectl = cluster.kubectl();
    println!("\n{}", kubectl.run(&["get", "nodes", "-o", "wide"])?);
    println!("{}", kubectl.run(&["get", "pods", "--all-namespaces", "-o", "wide"])?);
    if let Some(answer) = answer {
        println!("the demo says: {}\n", answer.trim());
    }
    let kubeconfig = kubectl.kubeconfig.display();
    println!("ready after {:.0} s; kubeconfig: {kubeconfig}\n\nnext:", progress.seconds());
    println!("  export KUBECONFIG={kubeconfig} PATH={}:$PATH", host::cluster_folder().display());
    println!("  kubectl run hello --image=pintle.dev/demo:v1 && kubectl get pods -w");
    println!("  cargo xtask down");
    Ok(())
}
