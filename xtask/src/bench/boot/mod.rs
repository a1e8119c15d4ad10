//! `cargo xtask bench boot`: one machine with the control plane, then a worker that joins it. One machine at first, since the peer's figures
//! come from one.
mod clock;
mod pods;
mod processes;
mod report;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_tests::cluster::{Layout, Programs};
use qemu_tests::{Cluster, Image, Progress, Vm};
use serde::Serialize;

use super::Output;
use super::figures::machine;
use crate::artifacts::{self, Flavour};
use crate::{host, image as formats, up};
use clock::Clock;

/// Arguments of `bench boot`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Boots this image folder (with `image.json`) instead of building one; the ISO is left out then.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Idle pods whose memory and processor time are measured.
    #[arg(long, default_value_t = 50)]
    pods: u32,
    /// Pods started one by one.
    #[arg(long, default_value_t = 20)]
    one_by_one: u32,
    /// Pods started at once.
    #[arg(long, default_value_t = 30)]
    at_once: u32,
    /// Seconds over which idle processor time is measured.
    #[arg(long, default_value_t = 120)]
    idle: u64,
    /// Leaves the worker out.
    #[arg(long)]
    without_worker: bool,
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Everything that was measured; times in seconds, sizes in bytes.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub machine: String,
    pub accel: String,
    pub control_plane: Boot,
    /// The first boot of a worker: it makes its state disk and asks for its certificates.
    pub worker: Option<Boot>,
    /// The same machine switched on again after a power cut.
    pub worker_again: Option<Boot>,
    pub pods: pods::Figures,
    /// The services' share of memory without pods of users and with `pods.idle` of them.
    pub empty: processes::Usage,
    pub full: processes::Usage,
    /// Processor seconds of each service while idle, with no pods and with `pods.idle`.
    pub idle_seconds: u64,
    pub empty_cpu: processes::Usage,
    pub idle_cpu: processes::Usage,
    pub sizes: Vec<(String, u64)>,
}

/// Kernel time of what happens in a boot, in seconds.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    pub pid1: f64,
    pub runtime: f64,
    pub api_server: Option<f64>,
    pub node_ready: f64,
}

/// Builds, boots, measures and prints.
///
/// # Errors
/// When the cluster does not come up or a pod does not start.
pub fn boot(arguments: &Arguments) -> Result<()> {
    host::prepare()?;
    let machine = machine();
    let progress = Progress::start();
    let pintle = progress.step("building pintle", || artifacts::host_program("pintle"))?;
    let kubernetes = progress.step("building Kubernetes", artifacts::kubernetes)?;
    let (image, iso) = images(arguments, &kubernetes, &progress)?;
    let programs = Programs { pintle, kubectl: up::tool(&kubernetes, "kubectl")? };
    let folder = host::target().join("bench/boot");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let layout = Layout::default();
    let mut cluster = Cluster::start(&folder, &layout, &image, programs)?;
    let result = measure(&mut cluster, &layout, arguments, &progress);
    cluster.power_cut()?;
    let mut figures = result?;
    figures.machine = machine;
    figures.accel = format!("{:?}, {} processors a machine", layout.accel, layout.processors);
    figures.sizes = sizes(&image, &kubernetes, iso.as_deref())?;
    match arguments.output {
        Output::Json => println!("{}", report::json(&figures)?),
        Output::Table => print!("{}", report::text(&figures)),
    }
    Ok(())
}

/// The image to boot, and an ISO of the same parts to be weighed.
fn images(
    arguments: &Arguments,
    kubernetes: &Path,
    progress: &Progress,
) -> Result<(PathBuf, Option<PathBuf>)> {
    if let Some(folder) = &arguments.image {
        return Ok((folder.canonicalize().with_context(|| format!("find {}", folder.display()))?, None));
    }
    let binaries = progress.step("building the OS's executables", || artifacts::rust(false))?;
    let image =
        progress.step("building the image", || artifacts::image(&binaries, Some(kubernetes), "none"))?;
    let out = host::target().join("bench/iso");
    let flavour = Flavour { debug: false, without_kubernetes: false };
    progress.step("building the ISO", || formats::image(&formats::Arguments::iso(&out, flavour)))?;
    let iso = std::fs::read_dir(&out)?.flatten().map(|entry| entry.path());
    let iso = iso.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "iso"));
    Ok((image, iso))
}

fn measure(
    cluster: &mut Cluster,
    layout: &Layout,
    arguments: &Arguments,
    progress: &Progress,
) -> Result<Figures> {
    let patience = layout.accel.patience();
    let first = cluster.state.nodes[0].clone();
    let clock = Clock::start(&first);
    cluster.wait_for_machines(progress, patience)?;
    let kubeconfig = cluster.wait_for_api(progress, patience)?;
    let mut control_plane = Boot { api_server: Some(clock.kernel(kubeconfig)?), ..Boot::default() };
    let nodes = watch::Watch::start(&cluster.kubectl(), "nodes")?;
    control_plane.node_ready = node_ready(&nodes, &first, "", &clock, patience, progress)?.0;
    (control_plane.pid1, control_plane.runtime) = (clock.of(PID1)?, clock.of(RUNTIME)?);
    let mut figures = Figures { control_plane, idle_seconds: arguments.idle, ..Figures::default() };
    let counts = [arguments.one_by_one, arguments.at_once, arguments.pods];
    let idle = Duration::from_secs(arguments.idle);
    // What only starting needed is given back by then.
    (figures.empty, figures.empty_cpu) =
        progress.step("measuring without pods", || processes::while_idle(cluster, &first, idle))?;
    let mut loaded = (processes::Usage::default(), processes::Usage::default());
    figures.pods = pods::measure(&cluster.kubectl(), counts, patience, progress, || {
        loaded = progress.step("measuring idle pods", || processes::while_idle(cluster, &first, idle))?;
        Ok(())
    })?;
    (figures.full, figures.idle_cpu) = loaded;
    if !arguments.without_worker {
        let vm = cluster.add(layout, 2)?;
        let worker = |clock: &Clock, node_ready| -> Result<Boot> {
            Ok(Boot { pid1: clock.of(PID1)?, runtime: clock.of(RUNTIME)?, api_server: None, node_ready })
        };
        let clock = Clock::start(&vm);
        let (ready, boot_id) = node_ready(&nodes, &vm, "", &clock, patience, progress)?;
        figures.worker = Some(worker(&clock, ready)?);
        // What the machine wrote since it was Ready counts as lost otherwise.
        std::thread::sleep(SETTLE);
        vm.power_cut()?;
        let console = vm.console_from_now();
        cluster.start_again(layout, 2)?;
        let vm = cluster.node(&vm.name)?.clone();
        let clock = Clock::follow(&vm, console);
        let (ready, _) = node_ready(&nodes, &vm, &boot_id, &clock, patience, progress)?;
        figures.worker_again = Some(worker(&clock, ready)?);
    }
    Ok(figures)
}

/// On the console when PID 1 begins.
const PID1: &str = "INFO Pintle ";
/// On the console when the runtime serves CRI.
const RUNTIME: &str = "runtime: ready";

/// How long a machine that has just become Ready is left alone before its power is cut.
const SETTLE: Duration = Duration::from_secs(10);

/// Kernel time of a machine at which its Node became Ready in another boot than `last`, and that boot's id.
fn node_ready(
    nodes: &watch::Watch,
    vm: &Vm,
    last: &str,
    clock: &Clock,
    patience: u32,
    progress: &Progress,
) -> Result<(f64, String)> {
    let boot_id = |event: &watch::Event| {
        event.object["status"]["nodeInfo"]["bootID"].as_str().unwrap_or_default().to_owned()
    };
    let seen = progress.step(&format!("waiting for {} to be Ready", vm.name), || {
        nodes.wait(Duration::from_secs(120) * patience, |event| {
            let conditions = event.object["status"]["conditions"].as_array().map(Vec::as_slice);
            event.name() == vm.name
                && boot_id(event) != last
                && conditions
                    .unwrap_or_default()
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })
    })?;
    Ok((clock.kernel(seen.at)?, boot_id(&seen)))
}

fn sizes(image: &Path, kubernetes: &Path, iso: Option<&Path>) -> Result<Vec<(String, u64)>> {
    let image = Image::open(image)?;
    let parts = [
        ("kernel", Some(image.kernel.as_path())),
        ("initramfs", Some(&image.initramfs)),
        ("root", Some(&image.root)),
        ("control-plane binary", Some(kubernetes)),
        ("ISO", iso),
    ];
    let there = parts.into_iter().filter_map(|(name, path)| Some((name, path?)));
    there
        .map(|(name, path)| {
            let meta = std::fs::metadata(path).with_context(|| format!("weigh {}", path.display()))?;
            Ok((name.to_owned(), meta.len()))
        })
        .collect()
}
