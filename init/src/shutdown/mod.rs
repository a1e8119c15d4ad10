//! Ending a boot in order: pods, services, what remains, file systems, power. Every step has a deadline, and a step that misses it names what
//! blocked and is passed over: the machine always stops.
mod plan;
mod survivors;
mod unmount;

pub use plan::{Step, plan};
use survivors::survivors;

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::login1::PowerRequest;
use crate::node::{Machine, ShutdownRequest};
use crate::services::SERVICES;
use crate::task::blocking;

/// Carries the plan out and leaves by reboot(2).
pub async fn run(machine: &Machine, request: &ShutdownRequest) {
    let grace = machine.active_config().map_or(0, |c| c.config.node_agent.shutdown_grace_period_seconds);
    let verb = if request.reboot { "rebooting" } else { "powering off" };
    machine.events.note("init", "Shutdown", &format!("{verb}: {}", request.reason));
    for step in plan(request, Duration::from_secs(grace.into())) {
        if let Err(error) = take(machine, request, &step).await {
            tracing::warn!("{}: {error:#}; going on", step.name());
        }
    }
}

async fn take(machine: &Machine, request: &ShutdownRequest, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::StopPods { grace } => {
            tracing::info!("stopping pods, at most {} s", grace.as_secs());
            stop_pods(machine, request, *grace).await
        }
        Step::Retire => {
            machine.supervisor.retire().await;
            Ok(())
        }
        Step::StopService(name) => {
            let definition = SERVICES.iter().find(|s| s.name == *name);
            let Some(definition) = definition else { return Ok(()) };
            if !machine.supervisor.stop(definition).await {
                anyhow::bail!("still there: {}", processes_of(definition.cgroup));
            }
            Ok(())
        }
        Step::KillRest => kill_rest().await,
        Step::SaveSeed => blocking("save the random seed", step.deadline(), crate::stage2::save_seed).await,
        Step::CloseLogs => {
            machine.logs.close().await;
            Ok(())
        }
        Step::Unmount => unmount::all(step.deadline()).await,
        Step::Sync => {
            blocking("sync", step.deadline(), || {
                nix::unistd::sync();
                Ok(())
            })
            .await
        }
        Step::Leave { power_off } => {
            tracing::info!("{}", if *power_off { "power off" } else { "reboot" });
            let power_off = *power_off;
            std::thread::spawn(move || crate::leave::leave(power_off));
            tokio::time::sleep(crate::leave::LONGEST).await;
            anyhow::bail!("the kernel does not stop the machine")
        }
    }
}

/// Whoever holds a login1 delay inhibitor (the agent) stops its pods now.
async fn stop_pods(machine: &Machine, request: &ShutdownRequest, grace: Duration) -> anyhow::Result<()> {
    if request.force {
        return Ok(());
    }
    let power = if request.reboot { PowerRequest::Reboot } else { PowerRequest::PowerOff };
    let released = machine.login1.prepare_for_shutdown(power, grace).await;
    anyhow::ensure!(released.blockers.is_empty(), "still delayed by {}", released.blockers.join(", "));
    Ok(())
}

/// Ends pods' cgroups and then every other process.
async fn kill_rest() -> anyhow::Result<()> {
    let everyone = Pid::from_raw(-1);
    let _ = kill(everyone, Signal::SIGTERM);
    if gone_within(Duration::from_secs(2)).await {
        return Ok(());
    }
    let _ = fs::write("/sys/fs/cgroup/kubepods/cgroup.kill", "1");
    let _ = kill(everyone, Signal::SIGKILL);
    if gone_within(Duration::from_secs(5)).await {
        return Ok(());
    }
    anyhow::bail!("processes that do not die (in the kernel?): {}", survivors().join(", "))
}

async fn gone_within(time: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < deadline {
        if survivors().is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn processes_of(cgroup: &str) -> String {
    let path = Path::new("/sys/fs/cgroup").join(cgroup).join("cgroup.procs");
    fs::read_to_string(path).unwrap_or_default().split_whitespace().take(8).collect::<Vec<_>>().join(", ")
}
