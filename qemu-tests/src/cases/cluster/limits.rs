//! Resources of pods as cgroup settings.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Stage, manifest};
use crate::cases::Outcome;

const NAMESPACE: &str = "limits";
const PERIOD: &str = "100000";

/// cpu.weight, cpu.max and memory.max of one cgroup.
pub type Settings = (&'static str, &'static str, &'static str);

/// The figures are those of a v1.37 kubelet with runc: shares = milli-CPUs * 1024 / 1000, at least 2; a pod's weight is
/// 1 + (shares - 2) * 9999 / 262142, a container's ceil(10^((l² + 125 l) / 612 - 7/34)) with l = log2(shares); a quota is milli-CPUs * period / 1000.
pub fn files(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let half = json!({"cpu": "500m", "memory": "64Mi"});
    check(
        stage,
        "guaranteed",
        &[json!({"requests": half, "limits": half})],
        "/kubepods/pod",
        ("20", "50000", "67108864"),
        &[("59", "50000", "67108864")],
    )?;
    let some =
        json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}});
    check(
        stage,
        "burstable",
        &[some.clone(), json!({"requests": {"cpu": "50m"}})],
        "/kubepods/burstable/pod",
        ("6", "max", "max"),
        &[("17", "25000", "67108864"), ("11", "max", "max")],
    )?;
    check(
        stage,
        "limited",
        &[some.clone(), some],
        "/kubepods/burstable/pod",
        ("8", "50000", "134217728"),
        &[("17", "25000", "67108864"), ("17", "25000", "67108864")],
    )?;
    check(
        stage,
        "besteffort",
        &[json!({})],
        "/kubepods/besteffort/pod",
        ("1", "max", "max"),
        &[("1", "max", "max")],
    )?;
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// A container that takes more memory than it may.
pub fn out_of_memory(stage: &mut Stage) -> Result<Outcome> {
    const NAMESPACE: &str = "oom";
    stage.namespace(NAMESPACE)?;
    for vm in stage.nodes() {
        let mut spec = manifest::once(&vm.name, &["eat", "200"]);
        spec["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
        stage.apply_in(NAMESPACE, &[manifest::pod(&vm.name, spec)])?;
    }
    for vm in stage.nodes() {
        let pod = stage.wait_ended(NAMESPACE, &vm.name)?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        ensure!(
            ended["reason"] == "OOMKilled" && ended["exitCode"] == 137,
            "on {} it ended with {ended}",
            vm.name
        );
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

fn check(
    stage: &Stage,
    name: &str,
    resources: &[Value],
    place: &str,
    pod_settings: Settings,
    container_settings: &[Settings],
) -> Result<()> {
    let vm = stage.nodes().last().context("a node")?;
    let containers: Vec<Value> = resources
        .iter()
        .enumerate()
        .map(|(number, resources)| {
            let port = (8080 + number).to_string();
            let mut container = manifest::container(&format!("c{number}"), &["serve", &port]);
            container["resources"] = resources.clone();
            container
        })
        .collect();
    let mut spec = manifest::pod_spec(containers.into());
    spec["nodeName"] = vm.name.clone().into();
    stage.apply_in(NAMESPACE, &[manifest::pod(name, spec)])?;
    let pods = stage.wait_ready(NAMESPACE, &format!("app={name}"), 1)?;
    let pod = pods.first().context("the pod")?;
    let uid = pod["metadata"]["uid"].as_str().context("the pod's uid")?;
    let cgroups = stage.inspector(vm)?.json(&["cgroups", uid])?;
    let path = format!("{place}{uid}");
    compare(&path, &cgroups[&path], pod_settings, &pod_pids())?;
    let statuses = pod["status"]["containerStatuses"].as_array().context("statuses")?;
    for (number, settings) in container_settings.iter().enumerate() {
        let status = statuses.iter().find(|status| status["name"] == format!("c{number}"));
        let id = status.and_then(|status| status["containerID"].as_str()).context("the container's id")?;
        let id = id.rsplit('/').next().unwrap_or(id);
        let path = format!("{path}/{id}");
        compare(&path, &cgroups[&path], *settings, "max")?;
        ensure!(cgroups[&path]["memory.oom.group"] == "1", "{path} is not killed as a whole");
    }
    Ok(())
}

/// What `pids.max` of a pod is by default.
pub fn pod_pids() -> String {
    machine::config::NodeAgent::default().pod_pids_limit.to_string()
}

/// Checks one cgroup: what a kubelet writes, and this limit of processes.
pub fn compare(path: &str, found: &Value, (weight, quota, memory): Settings, pids: &str) -> Result<()> {
    ensure!(!found.is_null(), "there is no cgroup {path}");
    let wanted = [
        ("cpu.weight", weight.to_owned()),
        ("cpu.max", format!("{quota} {PERIOD}")),
        ("memory.max", memory.to_owned()),
        ("memory.high", "max".to_owned()),
        ("pids.max", pids.to_owned()),
    ];
    for (file, value) in wanted {
        ensure!(found[file] == value.as_str(), "{path}/{file} is {}, a kubelet writes {value}", found[file]);
    }
    Ok(())
}
