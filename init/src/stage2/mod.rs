//! The second stage: PID 1 of a running node.
//!
//! Tasks, each started again when it panics: reaper, device events, machine socket, supervisor, boot (config, state volume, volumes), power
//! button, signals. The last one to act is the shutdown, which this stage's main loop waits for.
mod api_certificate;
mod api_files;
mod boot;
mod cgroups;
mod devices;
mod facts;
mod filesystems;
mod identity;
mod power_button;
mod signals;
mod state;
mod sysctls;
mod volumes;
mod watchdog;

pub use identity::save_seed;

use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;

use crate::children::Children;
use crate::events::Events;
use crate::ledger::Ledger;
use crate::node::{Machine, ShutdownRequest};
use crate::services::{LogSink, Supervisor};
use crate::task::keep_running;
use crate::{modules, shutdown, socket};

/// Runs the node until it reboots or powers off. It does not come back.
pub fn run() -> ! {
    filesystems::mount_all();
    crate::console::install();
    tracing::info!("Pintle {} on Linux {}: second stage", env!("CARGO_PKG_VERSION"), modules::release());
    prepare_kernel();
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = match runtime {
            Ok(runtime) => {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(node())))
            }
            Err(error) => Ok(Err(error.into())),
        };
        match outcome {
            Ok(Ok(request)) => crate::leave::leave(!request.reboot),
            Ok(Err(error)) => tracing::error!("{error:#}; starting over"),
            Err(_) => tracing::error!("the main loop panicked; starting over"),
        }
        // The services of the loop that is gone would each run twice.
        crate::services::end_leftovers();
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What needs no tasks and blocks for two seconds at most. Failures are said; a node without a sysctl is better than none.
fn prepare_kernel() {
    if let Err(error) = sys::spawn::reserve_channel_descriptor() {
        tracing::warn!("reserve descriptor 3: {error}");
    }
    if let Err(error) = modules::answer_requests("/usr/lib/pintle/pintle-init") {
        tracing::warn!("the kernel will not ask for modules: {error}");
    }
    if let Err(error) = nix::sys::reboot::set_cad_enabled(false) {
        tracing::warn!("Ctrl-Alt-Del will reboot at once: {error}");
    }
    cgroups::prepare();
    sysctls::apply_defaults();
    identity::raise_limits();
    identity::correct_clock();
    identity::wait_for_entropy();
}

async fn node() -> Result<ShutdownRequest> {
    let (events, ledger) = (Events::default(), Ledger::default());
    let children = Children::new(ledger.clone());
    let logs = LogSink::start()?;
    let (supervisor, handle) = Supervisor::new(children.clone(), logs.clone(), events.clone());
    let (sender, mut requests) = mpsc::channel(4);
    let machine = Machine::new(events, ledger, children, logs, handle, sender);

    start(&machine, "reaper", signals::reap);
    start(&machine, "signals", signals::obey);
    start(&machine, "devices", devices::follow);
    start(&machine, "machine socket", socket::serve);
    start(&machine, "power button", power_button::obey);
    start(&machine, "facts", facts::follow);
    start(&machine, "network", crate::network::follow);
    start(&machine, "login1", crate::login1::follow);
    tokio::spawn(supervisor.kept());
    start(&machine, "API certificate", api_certificate::follow);
    start(&machine, "watchdog", watchdog::follow);
    start(&machine, "boot", boot::run);
    tokio::spawn(sys::memory::keep_small());

    let Some(request) = requests.recv().await else { anyhow::bail!("nobody can ask for a shutdown") };
    shutdown::run(&machine, &request).await;
    Ok(request)
}

/// Keeps `task` running with a handle to the machine.
fn start<F, T>(machine: &Machine, name: &'static str, task: F)
where
    F: Fn(Machine) -> T + Send + 'static,
    T: Future<Output = Result<()>> + Send + 'static,
{
    let machine = machine.clone();
    keep_running(name, move || task(machine.clone()));
}
