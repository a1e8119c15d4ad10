//! Signals to PID 1: children's ends, and the conventional ways to ask for a reboot.
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::children::Reaped;
use crate::node::{Machine, ShutdownRequest};

/// Until what cannot be reaped now is tried again.
const LATER: Duration = Duration::from_millis(100);

/// Reaps at each SIGCHLD.
pub async fn reap(machine: Machine) -> Result<()> {
    let mut ended = signal(SignalKind::child()).context("hear SIGCHLD")?;
    loop {
        match machine.children.reap() {
            Reaped::All => ended.recv().await.context("no more SIGCHLD")?,
            Reaped::More => tokio::task::yield_now().await,
            Reaped::Later => tokio::time::sleep(LATER).await,
        }
    }
}

/// Obeys SIGINT (Ctrl-Alt-Del), SIGTERM, and systemd's SIGRTMIN+4 (power off) and SIGRTMIN+5 (reboot).
pub async fn obey(machine: Machine) -> Result<()> {
    let first = nix::libc::SIGRTMIN();
    let mut keys = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut power_off = signal(SignalKind::from_raw(first + 4))?;
    let mut reboot = signal(SignalKind::from_raw(first + 5))?;
    loop {
        let (restart, reason) = tokio::select! {
            _ = keys.recv() => (true, "Ctrl-Alt-Del"),
            _ = terminate.recv() => (true, "SIGTERM"),
            _ = power_off.recv() => (false, "SIGRTMIN+4"),
            _ = reboot.recv() => (true, "SIGRTMIN+5"),
        };
        let request = ShutdownRequest { reboot: restart, force: false, reason: reason.into() };
        // A full queue holds such a request already.
        let _ = machine.shutdown.try_send(request);
    }
}
