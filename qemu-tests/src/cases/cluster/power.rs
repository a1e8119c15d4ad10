//! Every machine of the cluster off and on again.
use anyhow::{Context, Result, ensure};
use qemu_tests::Look;
use serde_json::{Value, json};

use super::{Stage, manifest, superblock};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "power";
const DATA: &str = "/data/lines";

/// How the machines are switched off.
#[derive(Debug, Clone, Copy)]
enum Off {
    Reboot,
    Button,
    Cut,
}

/// All machines lose their power at once: all workloads and their data are back.
pub fn cut(stage: &mut Stage) -> Result<Outcome> {
    back(stage, &[Off::Cut])
}

/// Reboot by the machine API, power button: all workloads and their data are back, and the file systems were unmounted.
pub fn orderly(stage: &mut Stage) -> Result<Outcome> {
    if stage.rounds == 1 {
        return Ok(Outcome::Skipped("each way takes minutes under emulation; `--rounds 2` plays it".into()));
    }
    back(stage, &[Off::Reboot, Off::Button])
}

fn back(stage: &mut Stage, ways: &[Off]) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    for vm in stage.nodes() {
        stage.apply_in(NAMESPACE, &[keeper(&vm.name)])?;
    }
    for vm in stage.nodes() {
        stage.wait_ready(NAMESPACE, &format!("app={}", vm.name), 1)?;
    }
    for round in 0..stage.rounds.div_ceil(2) {
        for off in ways.iter().copied() {
            cycle(stage, &format!("{off:?}-{round}").to_lowercase(), off)
                .with_context(|| format!("{off:?}"))?;
        }
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// A Deployment with a folder of its node.
fn keeper(node: &str) -> Value {
    let mut spec = manifest::one(node, &["serve"]);
    spec["volumes"] =
        json!([{"name": "data", "hostPath": {"path": "/var/lib/keeper", "type": "DirectoryOrCreate"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    manifest::deployment(node, 1, spec)
}

fn cycle(stage: &mut Stage, word: &str, off: Off) -> Result<()> {
    let marker =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": word}, "data": {"word": word}});
    stage.apply_in(NAMESPACE, &[marker])?;
    for vm in stage.nodes() {
        let pods = stage.wait_ready(NAMESPACE, &format!("app={}", vm.name), 1)?;
        let pod = pods[0]["metadata"]["name"].as_str().context("the pod's name")?;
        stage.exec(NAMESPACE, pod, &["append", DATA, word])?;
    }
    let boots = boots(stage)?;
    switch_off(stage, off)?;
    for number in 1..=stage.layout.nodes {
        let layout = stage.layout.clone();
        stage.cluster.start_again(&layout, number)?;
    }
    stage.wait_for_nodes()?;
    until("every node to be Ready after its new boot", within(120), || {
        let now = self::boots(stage)?;
        for (name, boot) in &now {
            let ready = stage.get("default", &["node", name])?;
            let ready = ready["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
            if !ready || boots.contains(&(name.clone(), boot.clone())) {
                return Ok(Look::Waiting(format!("{name}: ready {ready}, boot {boot}")));
            }
        }
        Ok(Look::Done(()))
    })?;
    let found = stage.get(NAMESPACE, &["configmap", word])?;
    ensure!(found["data"]["word"] == word, "the cluster's object {word} is not back");
    everything_runs(stage)?;
    stage.wait_for_inspectors()?;
    for vm in stage.nodes() {
        let lines = until(&format!("the data on {}", vm.name), within(60), || {
            let pods = stage.wait_ready(NAMESPACE, &format!("app={}", vm.name), 1)?;
            let pod = pods[0]["metadata"]["name"].as_str().context("the pod's name")?;
            stage.exec(NAMESPACE, pod, &["read", DATA]).map(Look::Done)
        })?;
        ensure!(
            lines.lines().filter(|line| *line == word).count() == 1,
            "the data is {lines:?}, without {word:?}"
        );
    }
    Ok(())
}

fn switch_off(stage: &Stage, off: Off) -> Result<()> {
    for vm in stage.nodes() {
        match off {
            Off::Reboot => {
                // Off instead of booting at once, so that the disk can be looked at.
                vm.end_on_reset()?;
                qemu_tests::command::command_output(stage.cluster.pintle(vm)?.arg("reboot"))?;
            }
            Off::Button => vm.press_power_button()?,
            Off::Cut => vm.power_cut()?,
        }
    }
    for vm in stage.nodes() {
        vm.wait_off(within(60))?;
        if !matches!(off, Off::Cut) {
            superblock::is_clean(&vm.state_disk())
                .with_context(|| format!("after {off:?} of {}", vm.name))?;
        }
    }
    Ok(())
}

/// Name and boot id of each node.
fn boots(stage: &Stage) -> Result<Vec<(String, String)>> {
    let nodes = stage.get("default", &["nodes"])?;
    let nodes = nodes["items"].as_array().context("nodes")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(nodes
        .iter()
        .map(|node| (text(&node["metadata"]["name"]), text(&node["status"]["nodeInfo"]["bootID"])))
        .collect())
}

/// Every pod of the cluster is Ready, the control plane's and the add-ons' too.
fn everything_runs(stage: &Stage) -> Result<()> {
    for namespace in ["kube-system", "inspector", NAMESPACE] {
        stage.wait_ready(namespace, "", 1)?;
    }
    Ok(())
}
