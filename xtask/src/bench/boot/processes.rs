//! What services consume, by the machine API.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_tests::command::command_output;
use qemu_tests::{Cluster, Vm};
use serde_json::Value;

/// A figure for each service: bytes, or seconds.
pub type Usage = BTreeMap<String, f64>;

/// The services that make a node; what the control plane needs is not among them.
pub const NODE: [&str; 5] = ["init", "net", "api", "runtime", "agent"];

/// Memory after, and processor seconds during, a time in which nothing happens.
///
/// # Errors
/// When the machine API does not answer.
pub fn while_idle(cluster: &Cluster, vm: &Vm, time: Duration) -> Result<(Usage, Usage)> {
    let before = cpu(&ask(cluster, vm)?);
    std::thread::sleep(time);
    let after = ask(cluster, vm)?;
    let used = cpu(&after).into_iter().map(|(service, seconds)| {
        let at_first = before.get(&service).copied().unwrap_or(0.0);
        (service, seconds - at_first)
    });
    Ok((pss(&after), used.collect()))
}

/// The sum over a node's own services.
#[must_use]
pub fn sum(usage: &Usage) -> f64 {
    NODE.iter().filter_map(|service| usage.get(*service)).sum()
}

fn ask(cluster: &Cluster, vm: &Vm) -> Result<Value> {
    let text = command_output(cluster.pintle(vm)?.args(["processes", "--output", "json"]))?;
    serde_json::from_str(&text).context("understand `pintle processes`")
}

fn each(list: &Value, of: impl Fn(&Value) -> f64) -> Usage {
    let services = list.as_array().map(Vec::as_slice).unwrap_or_default();
    services.iter().map(|s| (s["service"].as_str().unwrap_or_default().to_owned(), of(s))).collect()
}

fn pss(list: &Value) -> Usage {
    each(list, |service| {
        let processes = service["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
        processes.iter().filter_map(|process| process["pssBytes"].as_f64()).sum()
    })
}

fn cpu(list: &Value) -> Usage {
    each(list, |service| service["cpuSeconds"].as_f64().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_the_sum_of_its_processes() {
        let list = serde_json::json!([
            {"service": "agent", "cpuSeconds": 1.5, "processes": [{"pssBytes": 3}, {"pssBytes": 4}]},
            {"service": "control-plane", "cpuSeconds": 9.0, "processes": [{"pssBytes": 100}]},
        ]);
        assert_eq!(sum(&pss(&list)), 7.0);
        assert_eq!(cpu(&list)["agent"], 1.5);
    }
}
