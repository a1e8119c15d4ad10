//! What `kubectl top` and its server live on.
use anyhow::{Context, Result, ensure};
use qemu_tests::Look;
use serde_json::{Value, json};

use super::super::Outcome;
use super::super::cluster::Stage;
use super::{pod, raw, script, vm};
use crate::bench::{until, within};

const NAMESPACE: &str = "stats";
const LIMIT: u64 = 64 << 20;

/// Summary and metrics tell processor time and memory of a busy pod and of its container.
pub fn summary(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let mut container = script("main", "while :; do :; done");
    container["resources"] = json!({"limits": {"cpu": "100m", "memory": LIMIT.to_string()}});
    stage.apply_in(NAMESPACE, &[pod(stage, "busy", json!([container]))?])?;
    stage.wait_ready(NAMESPACE, "app=busy", 1)?;
    let first = until("figures of the busy pod", within(90), || {
        let stats = busy(stage)?;
        let rates = [&stats["cpu"], &stats["containers"][0]["cpu"]];
        let there = rates.iter().all(|cpu| cpu["usageNanoCores"].as_u64().is_some_and(|usage| usage > 0));
        Ok(if there { Look::Done(stats) } else { Look::Waiting(stats.to_string()) })
    })?;
    for figures in [&first, &first["containers"][0]] {
        let memory = figures["memory"]["workingSetBytes"].as_u64().unwrap_or_default();
        ensure!((1..=LIMIT).contains(&memory), "the pod uses {memory} bytes, says {figures}");
    }
    // CRI tells the default interface apart from further ones, and the kubelet passes that on.
    let network = &first["network"];
    let sent = network["txBytes"].as_u64().unwrap_or_default();
    ensure!(network["name"] == "eth0" && sent > 0, "the pod's network is {network}");
    let used = |stats: &Value| stats["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64();
    until("the processor time to grow", within(60), || {
        let now = busy(stage)?;
        let grown = used(&now) > used(&first);
        Ok(if grown { Look::Done(()) } else { Look::Waiting(now["containers"][0]["cpu"].to_string()) })
    })?;
    for (endpoint, metric) in [
        ("metrics/resource", "container_cpu_usage_seconds_total"),
        ("metrics/resource", "pod_memory_working_set_bytes"),
        ("metrics/cadvisor", "container_memory_working_set_bytes"),
    ] {
        let text = raw(stage, vm(stage)?, endpoint)?;
        let value = text
            .lines()
            .filter(|line| {
                line.starts_with(metric)
                    && line.contains("namespace=\"stats\"")
                    && line.contains("pod=\"busy\"")
            })
            .find_map(|line| line.rsplit("} ").next()?.split(' ').next()?.parse::<f64>().ok());
        let value = value.with_context(|| format!("{endpoint} has no {metric} of the busy pod"))?;
        ensure!(value > 0.0, "{endpoint} says {metric} is {value}");
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// The busy pod in the kubelet's summary.
fn busy(stage: &Stage) -> Result<Value> {
    let summary: Value = serde_json::from_str(&raw(stage, vm(stage)?, "stats/summary")?)?;
    let pods = summary["pods"].as_array().context("the summary's pods")?;
    let is_busy = |pod: &&Value| pod["podRef"]["name"] == "busy" && pod["podRef"]["namespace"] == NAMESPACE;
    pods.iter().find(is_busy).cloned().context("the summary does not name the busy pod")
}
