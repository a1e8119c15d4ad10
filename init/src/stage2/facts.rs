//! From what services and the network report to what other services wait for.
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::node::Machine;

/// How long services wait for a time server once the network is ready: certificates are checked and made against the clock, but a
/// server that is down keeps no node from running.
const PATIENCE: Duration = Duration::from_secs(15);

/// Keeps the facts current.
pub async fn follow(machine: Machine) -> Result<()> {
    let mut services = machine.supervisor.watch();
    let mut network = machine.network.subscribe();
    let mut corrections = machine.net.corrections();
    let mut config = machine.config.subscribe();
    let mut ready_since: Option<Instant> = None;
    loop {
        let corrected = *corrections.borrow_and_update() > 0;
        let runtime = services.borrow_and_update().iter().any(|s| s.name == "runtime" && s.state == "Ready");
        let (address, ready, waiting) = {
            let network = network.borrow_and_update();
            let address = network.links.iter().any(|l| l.up && !l.addresses.is_empty());
            (address, network.ready, network.waiting_for.clone())
        };
        let active = config.borrow_and_update().clone();
        if ready && active.is_some() {
            ready_since.get_or_insert_with(Instant::now);
        }
        let configured = active
            .as_ref()
            .and_then(|a| a.config.time_sync.as_ref())
            .is_some_and(|sync| !sync.servers.is_empty());
        let over = ready_since.map(|since| since + PATIENCE);
        let late = over.is_some_and(|over| Instant::now() >= over);
        let no_server = ready_since.is_some() && !configured && !machine.net.has_time_servers();
        if late && !corrected && !no_server && !machine.supervisor.facts().clock_checked {
            tracing::warn!("no time server has answered; services start with the clock as it is");
        }
        machine.supervisor.set_facts(|facts| {
            facts.clock_checked |= corrected || late || no_server;
            facts.runtime_ready = runtime;
            facts.network_address = address;
            facts.network_ready = ready;
        });
        let (reason, message) =
            if ready { ("Ready", String::new()) } else { ("Waiting", format!("waits for {waiting}")) };
        machine.condition("NetworkReady", ready, reason, &message);
        tokio::select! {
            changed = services.changed() => changed?,
            changed = network.changed() => changed?,
            changed = corrections.changed() => changed?,
            changed = config.changed() => changed?,
            () = tokio::time::sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() && !late => {}
        }
    }
}
