//! `cargo xtask boot`: one machine, its console on standard output, until it is off. For people who work on the OS itself.
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use qemu_tests::network::{Forward, free_tcp_port};
use qemu_tests::{Accel, Boot, Image, Spec, Vm};

use crate::artifacts::{self, Flavour};
use crate::host;

/// Arguments of `boot`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    flavour: Flavour,
    /// Machine config to hand over by fw_cfg.
    #[arg(long)]
    config: Option<PathBuf>,
    /// MiB.
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Appended to the kernel command line, such as `loglevel=7`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Folder for disks and console log; its state disk is kept. Default: a new one, removed at the end.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Ends the machine after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Further QEMU arguments.
    #[arg(last = true)]
    qemu: Vec<String>,
}

/// Builds, boots and shows the console.
///
/// # Errors
/// When the image does not build or QEMU does not start.
pub fn boot(arguments: &Arguments) -> Result<()> {
    host::prepare()?;
    let folder = match &arguments.image {
        Some(folder) => folder.clone(),
        None => build(arguments.flavour, "none")?,
    };
    let scratch = tempfile::Builder::new().prefix("pintle-boot-").tempdir()?;
    let vm_folder = arguments.folder.clone().unwrap_or_else(|| scratch.path().to_path_buf());
    let mut spec = Spec::new("pintle-boot", Boot::Kernel(Image::open(&folder)?));
    spec.accel = Accel::detect();
    spec.memory = arguments.memory;
    spec.processors = arguments.cpus;
    spec.append.clone_from(&arguments.append);
    spec.extra.clone_from(&arguments.qemu);
    if let Some(path) = &arguments.config {
        spec.config =
            Some(std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?);
    }
    for guest in [machine::paths::API_PORT, 6443, 10250] {
        spec.forwards.push(Forward { host: free_tcp_port()?, guest });
    }
    let vm = Vm::start(&spec, &vm_folder)?;
    for Forward { host, guest } in &vm.forwards {
        eprintln!("guest port {guest}: 127.0.0.1:{host}");
    }
    eprintln!("QEMU is process {}; control socket and disks in {}", vm.process.pid, vm.folder.display());
    let start = Instant::now();
    let over = || arguments.seconds.is_some_and(|seconds| start.elapsed().as_secs() >= seconds);
    let shown = vm.console_from_now().follow(&mut std::io::stdout(), || !vm.runs() || over());
    vm.power_cut()?;
    eprintln!("the machine is off after {:.1} s", start.elapsed().as_secs_f32());
    shown
}

/// Builds an image of this flavour; returns its folder.
///
/// # Errors
/// When a part does not build.
pub fn build(flavour: Flavour, compression: &str) -> Result<PathBuf> {
    let binaries = artifacts::rust(flavour.debug)?;
    let kubernetes = if flavour.without_kubernetes { None } else { Some(artifacts::kubernetes()?) };
    artifacts::image(&binaries, kubernetes.as_deref(), compression)
}
