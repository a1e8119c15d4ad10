//! From what services and the network report to what other services wait for.
use anyhow::Result;

use crate::node::Machine;

/// Keeps the facts current.
pub async fn follow(machine: Machine) -> Result<()> {
    let mut services = machine.supervisor.watch();
    let mut network = machine.network.subscribe();
    loop {
        let runtime = services.borrow_and_update().iter().any(|s| s.name == "runtime" && s.state == "Ready");
        let (address, ready, waiting) = {
            let network = network.borrow_and_update();
            let address = network.links.iter().any(|l| l.up && !l.addresses.is_empty());
            (address, network.ready, network.waiting_for.clone())
        };
        machine.supervisor.set_facts(|facts| {
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
        }
    }
}
