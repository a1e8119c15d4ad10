//! A stock kubelet on our runtime: stories on a cluster whose second node has it in our agent's place.
mod node;
mod probes;
mod resize;
mod shutdown;
mod stats;
mod workloads;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use machine::paths::KUBERNETES_VERSION;
use qemu_tests::command::command_output;
use qemu_tests::stock_kubelet::AGNHOST;
use qemu_tests::{Accel, Look, Progress, Vm};
use serde_json::{Value, json};

use super::cluster::{Stage, Story, Wanted, kubectl, limits, manifest};
use crate::bench::{until, within};

/// All stories, in their order; the last one switches the node off.
pub const STORIES: &[Story] = &[
    Story { name: "a_deployment_and_a_job_run", run: workloads::run },
    Story { name: "probes_of_all_four_kinds_decide", run: probes::decide },
    Story { name: "kubectl_does_its_daily_work_through_the_stock_kubelet", run: kubectl::daily_on_last },
    Story { name: "limits_are_what_the_stock_kubelet_writes", run: limits::files },
    Story { name: "a_container_over_its_memory_limit_is_oom_killed", run: limits::out_of_memory },
    Story { name: "a_pod_is_resized_in_place", run: resize::in_place },
    Story { name: "stats_come_from_cri_alone", run: stats::summary },
    Story { name: "the_kubelet_ends_its_pods_before_the_machine_goes_off", run: shutdown::graceful },
];

/// Boots the machines.
pub fn start(wanted: &Wanted) -> Result<Stage> {
    Stage::start_with(wanted, |layout| {
        Ok(BTreeMap::from([(node::NUMBER, node::config(&wanted.folder, layout)?)]))
    })
}

/// Hands the second node over to the stock kubelet, waits until it has registered, and starts the inspectors.
pub fn prepare(stage: &Stage, inspector: &Path) -> Result<()> {
    let vm = vm(stage)?;
    if state(stage, vm, "agent")? != "Stopped" {
        hand_over(stage, vm)?;
    }
    stage.prepare(inspector)?;
    ensure!(state(stage, vm, "agent")? == "Stopped", "our agent runs beside the stock kubelet");
    let node = stage.get("default", &["node", &vm.name])?;
    let info = &node["status"]["nodeInfo"];
    ensure!(info["kubeletVersion"] == KUBERNETES_VERSION, "the node's kubelet is {info}");
    let runtime = info["containerRuntimeVersion"].as_str().unwrap_or_default();
    ensure!(runtime.starts_with("pintle://"), "the kubelet's runtime is {runtime:?}");
    let config = until("the kubelet to have a certificate that the API server trusts", within(60), || {
        raw(stage, vm, "configz").map(Look::Done)
    })?;
    let config: Value = serde_json::from_str(&config).context("the kubelet's config")?;
    let gates = &config["kubeletconfig"]["featureGates"];
    ensure!(gates["PodAndContainerStatsFromCRI"] == true, "the kubelet's feature gates are {gates}");
    Ok(())
}

fn hand_over(stage: &Stage, vm: &Vm) -> Result<()> {
    let progress = Progress::start();
    stage.cluster.wait_for_machines(&progress, Accel::detect().patience() * 4)?;
    vm.expect(&mut vm.console(), "stock kubelet: waits for the node's agent to stop", within(120))?;
    until("the machine API to stop the agent", within(60), || {
        command_output(stage.cluster.pintle(vm)?.args(["service", "stop", "agent"]))?;
        Ok(Look::Done(()))
    })
}

/// The machine of the stock kubelet.
fn vm(stage: &Stage) -> Result<&Vm> {
    stage.nodes().iter().find(|vm| vm.number == node::NUMBER).context("the stock kubelet's machine")
}

/// State of a service of the machine; empty as long as the machine API does not answer.
fn state(stage: &Stage, vm: &Vm, service: &str) -> Result<String> {
    let Ok(text) = command_output(stage.cluster.pintle(vm)?.args(["services", "--output", "json"])) else {
        return Ok(String::new());
    };
    let services: Value = serde_json::from_str(&text).context("read what `pintle services` says")?;
    let all = services.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|one| one["service"] == service).context("no such service")?;
    Ok(found["state"].as_str().unwrap_or_default().to_owned())
}

/// Something that the kubelet serves, by way of the API server.
fn raw(stage: &Stage, vm: &Vm, path: &str) -> Result<String> {
    stage.run("default", &["get", "--raw", &format!("/api/v1/nodes/{}/proxy/{path}", vm.name)])
}

/// A container of Kubernetes' test image that runs a script.
fn script(name: &str, text: &str) -> Value {
    json!({"name": name, "image": AGNHOST, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", text]})
}

/// A pod on the stock kubelet's node.
fn pod(stage: &Stage, name: &str, containers: Value) -> Result<Value> {
    let mut spec = manifest::pod_spec(containers);
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": vm(stage)?.name});
    Ok(manifest::pod(name, spec))
}
