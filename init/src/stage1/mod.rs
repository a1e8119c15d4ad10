//! The first stage: from the initramfs to the verified root.
//!
//! It mounts what it needs, loads drivers, looks for the EROFS superblock whose UUID the kernel command line names, opens that image with
//! dm-verity under the root hash of the command line, and executes the second stage from it. A root that does not verify is never run.
mod search;
mod switch;
mod verity;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use machine::paths;
use nix::mount::MsFlags;

use crate::cmdline;
use crate::modules::{self, Modules};
use search::Search;
use verity::RootSpec;

/// How long the root may take to appear: slow disks behind slow controllers.
const ROOT_DEADLINE: Duration = Duration::from_secs(60);
/// How long other candidates may take once one was refused.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);
/// How long a failure stays readable before the machine reboots.
const FAILURE_PAUSE: Duration = Duration::from_secs(15);
/// What no device asks for by alias. Ciphers and checksums come when the kernel asks.
const BASE: [&str; 8] =
    ["dm_mod", "dm_verity", "erofs", "loop", "isofs", "crc32c_generic", "sha256_generic", "sha256_ssse3"];

/// Runs the first stage. It comes back only by rebooting the machine.
pub fn run() -> ! {
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    crate::console::line(&format!(
        "ERROR cannot start: {error:#}; rebooting in {} s",
        FAILURE_PAUSE.as_secs()
    ));
    std::thread::sleep(FAILURE_PAUSE);
    crate::leave::leave(false)
}

fn start() -> Result<std::convert::Infallible> {
    mount_early()?;
    crate::console::install();
    tracing::info!("Pintle {} on Linux {}", env!("CARGO_PKG_VERSION"), modules::release());
    let spec = RootSpec::from_cmdline(&cmdline::read())?;
    if let Err(error) = modules::answer_requests("/init") {
        tracing::warn!("the kernel will not ask for modules: {error}");
    }
    let device = find_root(&spec)?;
    tracing::info!("root {} is on {}; its verity tree holds", spec.uuid, device.display());
    switch::to(&device)
}

fn mount_early() -> Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    sys::mount::mount("proc", "/proc", "proc", safe, "")?;
    sys::mount::mount("sysfs", "/sys", "sysfs", safe, "")?;
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    match sys::mount::mount("devtmpfs", "/dev", "devtmpfs", devices, "mode=0755") {
        // The kernel has mounted it itself.
        Err(error) if error.errno() == Some(nix::libc::EBUSY) => {}
        other => other?,
    }
    crate::tmpfs::RUN.mount()?;
    Ok(())
}

/// Looks until a candidate verifies or time is up; says every ten seconds what it waits for.
fn find_root(spec: &RootSpec) -> Result<PathBuf> {
    let events = sys::uevent::UeventSocket::open().context("open the device event socket")?;
    let mut modules = Modules::of_running_kernel();
    load(&mut modules, &BASE.map(String::from));
    load(&mut modules, &modules::device_aliases());
    let started = Instant::now();
    let mut deadline = started + ROOT_DEADLINE;
    let mut report = started + Duration::from_secs(10);
    let mut search = Search::default();
    loop {
        if let Some(found) = search.pass(spec) {
            match verity::open(spec, &found) {
                Ok(device) => return Ok(device),
                Err(error) => {
                    tracing::error!("refusing the root on {}: {error:#}", found.display());
                    search.refuse(found);
                    deadline = deadline.min(Instant::now() + AFTER_REFUSAL);
                }
            }
        }
        let now = Instant::now();
        if now >= deadline {
            bail!(
                "no root that verifies with UUID {} within {} s on {}; boot an image whose kernel command line and root belong together",
                spec.uuid,
                (now - started).as_secs(),
                search.seen()
            );
        }
        if now >= report {
            tracing::info!("waiting for the root with UUID {}; devices: {}", spec.uuid, search.seen());
            report = now + Duration::from_secs(10);
        }
        load(&mut modules, &wait_for_devices(&events)?);
    }
}

/// Waits up to a quarter of a second for device events and returns the aliases in them.
fn wait_for_devices(events: &sys::uevent::UeventSocket) -> Result<Vec<String>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut waiting = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut waiting, PollTimeout::from(250_u16));
    let mut aliases = Vec::new();
    loop {
        match events.next() {
            Ok(Some(event)) => aliases.extend(event.modalias.filter(|_| event.action == "add")),
            Ok(None) => return Ok(aliases),
            // Lost events: sysfs knows everything.
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(modules::device_aliases()),
            Err(e) => return Err(e).context("read device events"),
        }
    }
}

fn load(modules: &mut Modules, wanted: &[String]) {
    for (file, error) in modules.load(wanted) {
        tracing::warn!("load module {file}: {error}");
    }
}

/// The second stage's program.
fn second_stage() -> String {
    format!("{}/pintle-init", paths::BIN)
}
