//! What a node's services are at a moment, as the machine API tells it.
use anyhow::{Context, Result};
use qemu_tests::Vm;
use qemu_tests::command::command_output;
use serde_json::Value;

use super::super::cluster::Stage;
use super::verdict::Services;

/// Asks a node.
pub fn of(stage: &Stage, vm: &Vm) -> Result<Services> {
    let ask = |what: &str| -> Result<Value> {
        let text = command_output(stage.cluster.pintle(vm)?.args([what, "--output", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("understand `pintle {what}`"))
    };
    let (services, processes) = (ask("services")?, ask("processes")?);
    let mut found = Services::default();
    for service in services.as_array().context("services")? {
        let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
        found.restarts.insert(text("service"), text("restarts").parse().unwrap_or_default());
    }
    for service in processes.as_array().context("processes")? {
        let list = service["processes"].as_array().into_iter().flatten();
        found.memory += list.filter_map(|process| process["pssBytes"].as_u64()).sum::<u64>();
    }
    Ok(found)
}
