//! `cargo xtask conformance`: Kubernetes' own specs against a cluster in QEMU.
mod handful;
mod images;
mod prepull;
mod programs;
mod stock_kubelet;

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::cluster::{Layout, Programs as ClusterPrograms};
use qemu_tests::e2e::{self, Outcome, State, Suite};
use qemu_tests::{Cluster, Progress, Vm};
use regex::Regex;

use crate::artifacts::Flavour;
use crate::oci::registry::Registry;
use crate::{go, host, up};
pub use handful::{Handful, counts};
use programs::{Programs, Set};
pub use stock_kubelet::StockKubelet;

/// One spec of every kind of duty, by its full name.
const SMOKE: &str = include_str!("smoke.txt");
/// How long one spec may take where the processor is not emulated; upstream's slowest take 5 to 6 minutes.
const DEADLINE: Duration = Duration::from_secs(600);
/// The host's loopback, as guests of QEMU's user network see it.
const HOST: &str = "10.0.2.2";

/// Arguments of `conformance`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The specs of the project's list: one of every kind of duty.
    #[arg(long, conflicts_with = "focus", required_unless_present = "focus")]
    smoke: bool,
    /// Specs whose full name matches this regular expression, such as `\[NodeConformance\]`.
    #[arg(long)]
    focus: Option<Regex>,
    /// Leaves out specs whose full name matches this regular expression.
    #[arg(long)]
    skip: Option<Regex>,
    /// Machines in all; the specs need at least two that pods may run on.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=100))]
    nodes: u8,
    /// Memory of the control-plane machine in MiB; a worker gets half.
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Lets the cluster run on afterwards; the next run with the same image uses it.
    #[arg(long)]
    keep: bool,
    /// Only prints the names of the chosen specs.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    flavour: Flavour,
}

/// Builds, boots and runs the chosen specs.
///
/// # Errors
/// When something does not build, the cluster does not come up, or a spec fails.
pub fn conformance(arguments: &Arguments) -> Result<()> {
    let progress = Progress::start();
    progress.step("checking the host", || {
        host::prepare()?;
        localhost(|name| (name, 0).to_socket_addrs().map(Iterator::collect))
    })?;
    let programs = progress.step("building Kubernetes' tests", || Programs::build(Set::Tests))?;
    let names = chosen(arguments, &e2e::names(&programs.program("e2e.test"))?)?;
    if arguments.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let folder = folder();
    let (cluster, _registry) = bring_up(arguments, &programs, &folder, &progress)?;
    let result = run(&cluster, &programs, &names, &images::names(&programs)?, &progress);
    if arguments.keep {
        println!("the cluster runs on: export KUBECONFIG={}", cluster.kubeconfig().display());
    } else {
        cluster.power_cut()?;
    }
    report(&result?, &cluster.folder)
}

/// Specs reach kubectl's proxy and port-forwards by the name `localhost`; without it they fail one by one and do not say why.
fn localhost(resolve: impl Fn(&'static str) -> std::io::Result<Vec<std::net::SocketAddr>>) -> Result<()> {
    let remedy = "add the line `127.0.0.1 localhost` to /etc/hosts";
    let found =
        resolve("localhost").with_context(|| format!("the name localhost does not resolve; {remedy}"))?;
    ensure!(
        found.iter().any(|address| address.ip() == std::net::Ipv4Addr::LOCALHOST),
        "the name localhost is not 127.0.0.1 but {found:?}; {remedy}"
    );
    Ok(())
}

/// Builds the specs, for a run that will come to them later.
///
/// # Errors
/// When the module does not build.
pub fn build_programs() -> Result<()> {
    Programs::build(Set::Tests).map(drop)
}

/// Where registries, results and the cluster lie.
fn folder() -> PathBuf {
    host::target().join("conformance")
}

/// Has every node pull the images, and runs the specs.
fn run(
    cluster: &Cluster,
    programs: &Programs,
    names: &BTreeSet<String>,
    images: &[String],
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    let patience = Layout::default().accel.patience();
    prepull::run(&cluster.kubectl(), images, progress, patience)?;
    let suite = Suite {
        program: programs.program("e2e.test"),
        kubectl: cluster.programs.kubectl.clone(),
        kubeconfig: cluster.kubeconfig(),
        folder: results(),
        deadline: DEADLINE * patience,
    };
    if suite.folder.exists() {
        std::fs::remove_dir_all(&suite.folder)?;
    }
    suite.run(names, &mut |line| println!("[{:7.1} s] {line}", progress.seconds()))
}

/// Logs and reports of the last run.
fn results() -> PathBuf {
    folder().join("results")
}

/// The names that were asked for.
fn chosen(arguments: &Arguments, all: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = match &arguments.focus {
        Some(focus) => all.iter().filter(|name| focus.is_match(name)).cloned().collect(),
        None => smoke(SMOKE, all)?,
    };
    if let Some(skip) = &arguments.skip {
        names.retain(|name| !skip.is_match(name));
    }
    ensure!(!names.is_empty(), "no spec has such a name");
    Ok(names)
}

fn smoke(list: &str, all: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let names = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let unknown: Vec<&str> = names.difference(all).map(String::as_str).collect();
    if !unknown.is_empty() {
        bail!("Kubernetes has no specs with these names of smoke.txt:\n  {}", unknown.join("\n  "));
    }
    Ok(names)
}

/// A cluster whose machines pull from a registry on this host: the one that `--keep` left, or a new one.
fn bring_up(
    arguments: &Arguments,
    programs: &Programs,
    folder: &Path,
    progress: &Progress,
) -> Result<(Cluster, Registry)> {
    let images = progress.step("building the test images", || images::registry_folder(programs))?;
    let server = progress.step("building the registry", || go::build(&go::REGISTRY))?;
    let (image, pintle, kubernetes) =
        up::build_all(arguments.image.as_deref(), arguments.flavour.debug, progress)?;
    std::fs::create_dir_all(folder)?;
    let home = folder.join("cluster");
    let kubectl = folder.join("kubectl");
    if kubectl.symlink_metadata().is_ok() {
        std::fs::remove_file(&kubectl)?;
    }
    std::os::unix::fs::symlink(&kubernetes, &kubectl)?;
    let tools = ClusterPrograms { pintle, kubectl };
    let port_file = folder.join("registry.port");
    if let Some(old) = Cluster::load(&home, tools.clone())? {
        let same = old.state.image == image && old.state.nodes.len() == usize::from(arguments.nodes);
        if same && old.state.nodes.iter().all(Vm::runs) {
            let port = std::fs::read_to_string(&port_file)?.trim().parse().context("the registry's port")?;
            println!("the machines of the last run go on");
            return Ok((old, Registry::serve_at(&server, &images, port)?));
        }
        old.power_cut()?;
        std::fs::remove_dir_all(&home)?;
    }
    let registry = Registry::serve(&server, &images)?;
    std::fs::write(&port_file, registry.port.to_string())?;
    let layout = Layout {
        nodes: arguments.nodes,
        memory: arguments.memory,
        schedule_on_control_planes: true,
        mirror: Some(format!("http://{HOST}:{}", registry.port)),
        ..Layout::default()
    };
    let patience = layout.accel.patience();
    let cluster = progress.step("starting the machines", || Cluster::start(&home, &layout, &image, tools))?;
    let up = cluster
        .wait_for_machines(progress, patience)
        .and_then(|()| cluster.wait_for_nodes(progress, patience));
    if let Err(fault) = up {
        cluster.power_cut()?;
        return Err(fault);
    }
    Ok((cluster, registry))
}

/// The closing table; the output of failed specs goes to files.
fn report(outcomes: &[Outcome], machines: &Path) -> Result<()> {
    let results = results();
    std::fs::write(results.join("outcomes.json"), serde_json::to_vec_pretty(outcomes)?)?;
    println!("\n{}", e2e::summary(outcomes));
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.state == State::Failed).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let place = results.join("failed");
    std::fs::create_dir_all(&place)?;
    for outcome in &failed {
        let text = format!("{}\n\n{}\n\n{}\n", outcome.name, outcome.message, outcome.output);
        std::fs::write(place.join(file_name(&outcome.name)), text)?;
    }
    bail!(
        "{} specs failed; what they printed: {}; the machines' consoles: {}",
        failed.len(),
        place.display(),
        machines.display()
    )
}

/// A spec's name as that of a file.
fn file_name(name: &str) -> String {
    let mut file: String =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    while file.contains("--") {
        file = file.replace("--", "-");
    }
    file.truncate(150);
    format!("{}.log", file.trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_46_different_names() -> Result<()> {
        let names: Vec<&str> = SMOKE.lines().filter(|line| line.starts_with('[')).collect();
        let all = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!((names.len(), smoke(SMOKE, &all)?.len()), (46, 46));
        Ok(())
    }

    #[test]
    fn an_unknown_name_is_told() {
        let fault = smoke("# list\n[sig-node] a\n[sig-node] b\n", &["[sig-node] a".to_owned()].into());
        assert!(fault.is_err_and(|fault| fault.to_string().ends_with("[sig-node] b")));
    }

    #[test]
    fn a_failed_spec_has_a_file() {
        assert_eq!(file_name("[sig-node] Pods: (a/b) [Conformance]"), "sig-node-Pods-a-b-Conformance.log");
    }

    #[test]
    fn a_machine_without_localhost_is_told_so_before_anything_is_built() {
        let none = localhost(|_| Err(std::io::Error::other("no such host"))).unwrap_err();
        assert!(format!("{none:#}").contains("/etc/hosts"));
        assert!(localhost(|_| Ok(vec!["192.0.2.1:0".parse().unwrap()])).is_err());
        assert!(localhost(|_| Ok(vec!["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()])).is_ok());
    }
}
