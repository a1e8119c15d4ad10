//! Drivers for devices, those that are there and those that come, and modules that nothing asks for by itself.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use sys::uevent::UeventSocket;
use tokio::io::unix::AsyncFd;

use crate::modules::{Modules, device_aliases};
use crate::node::Machine;
use crate::task::blocking;

/// The longest that a batch of drivers may take to load.
const LOAD_DEADLINE: Duration = Duration::from_secs(120);
/// Devices come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest that what the processor asks for waits for the services to be up.
const PROCESSOR_DELAY: Duration = Duration::from_secs(20);
/// What pods, their networks and init itself need before anybody could ask the kernel for it. Expressions of nftables, ciphers and file
/// systems load when they are first used.
const WANTED: [&str; 18] = [
    "overlay",
    "br_netfilter",
    "bridge",
    "veth",
    "vxlan",
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "ip_tables",
    "tun",
    "dummy",
    "button",
    "evdev",
    "loop",
    "ext4",
];

/// Loads drivers now and for each device that appears; tells others when block devices change.
// AsyncFd::new is deprecated for types whose descriptor can change while registered; this one owns its socket for good.
#[allow(deprecated)]
pub async fn follow(machine: Machine) -> Result<()> {
    // First the socket, then sysfs: what appears in between is seen twice and not missed.
    let events = AsyncFd::new(UeventSocket::open().context("open the device event socket")?)?;
    let modules = Arc::new(Mutex::new(Modules::of_running_kernel()));
    let aliases = blocking("read sysfs", LOAD_DEADLINE, || Ok(device_aliases())).await?;
    // Disks and links first: everything waits for them. The processor asks for a dozen ciphers and hypervisors that nobody waits for.
    let (processor, devices): (Vec<_>, Vec<_>) =
        aliases.into_iter().partition(|alias| alias.starts_with("cpu:"));
    load(&modules, devices).await?;
    machine.devices.send_modify(|generation| *generation += 1);
    load(&modules, WANTED.map(String::from).to_vec()).await?;
    blocking("set kernel parameters", LOAD_DEADLINE, || {
        super::sysctls::apply_late_defaults();
        Ok(())
    })
    .await?;
    machine.condition("Drivers", true, "Loaded", "");
    let later = load_later(machine.clone(), modules.clone(), processor);
    let following = follow_events(&machine, &modules, &events);
    tokio::try_join!(later, following).map(drop)
}

/// Loads once the services are up, or do not come up.
async fn load_later(machine: Machine, modules: Arc<Mutex<Modules>>, wanted: Vec<String>) -> Result<()> {
    let mut services = machine.supervisor.watch();
    let up = services.wait_for(|services| {
        services.iter().any(|service| service.name == "agent" && service.state == "Ready")
    });
    let _ = tokio::time::timeout(PROCESSOR_DELAY, up).await;
    load(&modules, wanted).await
}

async fn follow_events(
    machine: &Machine,
    modules: &Arc<Mutex<Modules>>,
    events: &AsyncFd<UeventSocket>,
) -> Result<()> {
    loop {
        let mut ready = events.readable().await?;
        tokio::time::sleep(SETTLE).await;
        let (mut aliases, mut changed) = (Vec::new(), false);
        loop {
            match events.get_ref().next() {
                Ok(Some(event)) => {
                    changed |= ["block", "input"].contains(&event.subsystem.as_str());
                    aliases.extend(event.modalias.filter(|_| event.action == "add"));
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    aliases = device_aliases();
                    changed = true;
                }
                Err(error) => return Err(error).context("read device events"),
            }
        }
        ready.clear_ready();
        load(modules, aliases).await?;
        if changed {
            machine.devices.send_modify(|generation| *generation += 1);
        }
    }
}

async fn load(modules: &Arc<Mutex<Modules>>, wanted: Vec<String>) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let modules = modules.clone();
    blocking("load drivers", LOAD_DEADLINE, move || {
        let failures = modules.lock().unwrap_or_else(PoisonError::into_inner).load(&wanted);
        for (file, error) in failures {
            tracing::warn!("load module {file}: {error}");
        }
        Ok(())
    })
    .await
}
