//! `cargo xtask up`: from sources to a cluster with a pod that answers.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::network::{Forward, free_tcp_port, free_udp_port};
use qemu_tests::{Accel, Boot, Image, Spec, Vm};

use crate::artifacts::{self, Flavour};
use crate::kubectl::{Kubectl, unready_nodes};
use crate::progress::{Look, Progress};
use crate::state::{self, State};
use crate::{cluster, demo, down, host};

const API_SERVER_PORT: u16 = 6443;

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
    pintle: PathBuf,
    kubectl: PathBuf,
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
    let progress = Progress::new();
    progress.step("checking the host", host::prepare)?;
    let built = build(arguments, &progress)?;
    let state = start(arguments, &built, &progress)?;
    let patience = arguments.accel.choose().patience();
    wait_for_machines(&state, &progress, patience)?;
    let kubectl = Kubectl { binary: built.kubectl, kubeconfig: state::kubeconfig() };
    wait_for_cluster(&state, &built.pintle, &kubectl, &progress, patience)?;
    let answer = if arguments.without_demo { None } else { Some(demo::run(&kubectl, &progress, patience)?) };
    report(&kubectl, answer.as_deref(), &progress)
}

fn build(arguments: &Arguments, progress: &Progress) -> Result<Built> {
    let pintle = progress.step("building pintle", || artifacts::host_program("ctl", "pintle"))?;
    let kubernetes = progress.step("building Kubernetes", artifacts::kubernetes)?;
    let image = match &arguments.image {
        Some(folder) => folder.clone(),
        None => {
            let binaries = progress
                .step("building the OS's executables", || artifacts::rust(arguments.flavour.debug))?;
            progress.step("building the image", || artifacts::image(&binaries, Some(&kubernetes), "none"))?
        }
    };
    let kubectl = tool(&kubernetes, "kubectl")?;
    Ok(Built { image, pintle, kubectl })
}

/// A link by which the Kubernetes binary knows what it is to be.
pub fn tool(kubernetes: &Path, name: &str) -> Result<PathBuf> {
    let folder = host::target().join("up");
    std::fs::create_dir_all(&folder)?;
    let link = folder.join(name);
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(kubernetes, &link)
        .with_context(|| format!("make the link {}", link.display()))?;
    Ok(link)
}

fn start(arguments: &Arguments, built: &Built, progress: &Progress) -> Result<State> {
    let old = State::load()?;
    if arguments.recreate {
        progress.step("removing the old cluster", down::remove)?;
    } else if let Some(old) = old.filter(|old| old.nodes.iter().any(Vm::runs)) {
        let same = old.image == built.image && old.nodes.len() == usize::from(arguments.nodes);
        if same && old.nodes.iter().all(Vm::runs) {
            println!("the machines run already");
            return Ok(old);
        }
        bail!(
            "another cluster runs; end it with `cargo xtask down`, or replace it with `cargo xtask up --recreate`"
        );
    }
    progress
        .step("making the cluster's config", || cluster::generate(&built.pintle, arguments.nodes == 1))?;
    progress.step("starting the machines", || {
        let mut state = State { image: built.image.clone(), lan: free_udp_port()?, nodes: Vec::new() };
        for number in 1..=arguments.nodes {
            let spec = spec(arguments, &state, number)?;
            let vm = Vm::start(&spec, &state::folder().join(&spec.name))?;
            state.nodes.push(vm);
            // At once: an `up` that stops here leaves machines that `down` must find.
            state.save()?;
        }
        Ok(state)
    })
}

fn spec(arguments: &Arguments, state: &State, number: u8) -> Result<Spec> {
    let control_plane = number <= arguments.control_planes;
    let mut spec =
        Spec::new(&format!("{}-{number}", cluster::NAME), Boot::Kernel(Image::open(&state.image)?));
    spec.number = number;
    spec.accel = arguments.accel.choose();
    spec.memory = if control_plane { arguments.memory } else { arguments.memory / 2 };
    spec.processors = arguments.cpus;
    spec.config = Some(cluster::node_config(number, control_plane)?);
    spec.lan = Some(state.lan);
    spec.forwards.push(Forward { host: free_tcp_port()?, guest: machine::paths::API_PORT });
    if control_plane {
        spec.forwards.push(Forward { host: free_tcp_port()?, guest: API_SERVER_PORT });
    }
    Ok(spec)
}

fn wait_for_machines(state: &State, progress: &Progress, patience: u32) -> Result<()> {
    for vm in &state.nodes {
        progress.wait(
            &format!("waiting for {}'s verified root", vm.name),
            Duration::from_secs(30) * patience,
            || {
                let text = vm.console().text().unwrap_or_default();
                if text.contains("its verity tree holds") {
                    return Ok(Look::Done(()));
                }
                ensure!(vm.runs(), "{} ended; its console: {}", vm.name, vm.console().tail());
                Ok(Look::Waiting(blocker(&text)))
            },
        )?;
    }
    Ok(())
}

/// The last line of a console that says something is wrong or missing; otherwise the last line.
fn blocker(text: &str) -> String {
    let telling =
        |line: &&str| ["ERROR", "WARN", "waiting for", "panic"].iter().any(|word| line.contains(word));
    let line =
        text.lines().rev().find(telling).or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()));
    format!("console: {}", line.unwrap_or("nothing yet").trim())
}

fn wait_for_cluster(
    state: &State,
    pintle: &Path,
    kubectl: &Kubectl,
    progress: &Progress,
    patience: u32,
) -> Result<()> {
    let first = state.nodes.first().context("no machine")?;
    let console = || blocker(&first.console().text().unwrap_or_default());
    let alive = || -> Result<()> {
        for vm in &state.nodes {
            ensure!(vm.runs(), "{} ended; its console:\n{}", vm.name, vm.console().tail());
        }
        Ok(())
    };
    progress.wait("waiting for the machine API", Duration::from_secs(60) * patience, || {
        alive()?;
        Ok(match fetch_kubeconfig(pintle, first) {
            Ok(()) => Look::Done(()),
            Err(fault) => Look::Waiting(format!("{fault:#}; {}", console())),
        })
    })?;
    progress.wait("waiting for the API server", Duration::from_secs(120) * patience, || {
        alive()?;
        Ok(match kubectl.run(&["get", "--raw", "/readyz"]) {
            Ok(_) => Look::Done(()),
            Err(_) => Look::Waiting(console()),
        })
    })?;
    progress.wait("waiting for the nodes to be Ready", Duration::from_secs(120) * patience, || {
        alive()?;
        let (count, unready) = match kubectl.get(&["nodes"]) {
            Ok(list) => unready_nodes(&list),
            Err(fault) => return Ok(Look::Waiting(format!("{fault:#}"))),
        };
        Ok(match (count >= state.nodes.len(), unready.as_slice()) {
            (true, []) => Look::Done(()),
            (_, [first, ..]) => Look::Waiting(first.clone()),
            (false, []) => Look::Waiting(format!(
                "{count} of {} nodes have registered; {}",
                state.nodes.len(),
                console()
            )),
        })
    })
}

/// The administrator's kubeconfig, from the machine, with the forwarded port as its server.
fn fetch_kubeconfig(pintle: &Path, vm: &Vm) -> Result<()> {
    let text = artifacts::command_output(pintle_for(pintle, vm)?.args(["kubeconfig", "--output", "-"]))?;
    let server = format!("https://127.0.0.1:{}", vm.port(API_SERVER_PORT)?);
    let text: String = text
        .lines()
        .map(|line| match line.split_once("server: ") {
            Some((indent, _)) => format!("{indent}server: {server}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    ensure!(text.contains(&server), "the kubeconfig names no server");
    let path = state::kubeconfig();
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?)
}

/// `pintle`, told which machine to ask.
///
/// # Errors
/// When the machine's API is not forwarded.
pub fn pintle_for(pintle: &Path, vm: &Vm) -> Result<Command> {
    let mut command = Command::new(pintle);
    command.arg("--config").arg(state::pintleconfig());
    command.arg("--nodes").arg(format!("127.0.0.1:{}", vm.port(machine::paths::API_PORT)?));
    Ok(command)
}

fn report(kubectl: &Kubectl, answer: Option<&str>, progress: &Progress) -> Result<()> {
    println!("\n{}", kubectl.run(&["get", "nodes", "-o", "wide"])?);
    println!("{}", kubectl.run(&["get", "pods", "--all-namespaces", "-o", "wide"])?);
    if let Some(answer) = answer {
        println!("the demo says: {}\n", answer.trim());
    }
    let kubeconfig = kubectl.kubeconfig.display();
    println!("ready after {:.0} s; kubeconfig: {kubeconfig}\n\nnext:", progress.seconds());
    println!("  export KUBECONFIG={kubeconfig} PATH={}:$PATH", state::folder().display());
    println!("  kubectl run hello --image=pintle.dev/demo:v1 && kubectl get pods -w");
    println!("  cargo xtask down");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocker_is_the_last_line_that_tells_something() {
        assert_eq!(blocker("a\nERROR no disk\nb\n"), "console: ERROR no disk");
        assert_eq!(blocker("a\nb\n\n"), "console: b");
        assert_eq!(blocker(""), "console: nothing yet");
    }
}
