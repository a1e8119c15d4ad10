//! The machine is told to power off, and waits for the kubelet.
use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;
use serde_json::{Value, json};

use super::super::Outcome;
use super::super::cluster::{Stage, superblock};
use super::{pod, script, vm};
use crate::bench::within;

const NAMESPACE: &str = "kube-system";
/// A program that ends in its own time when it is told to, and leaves a word. A pod that ends with 0 has succeeded, shutdown or not.
const HANDLER: &str =
    "trap 'sleep 3; echo -n handled >/dev/termination-log; exit 3' TERM; while :; do sleep 0.2; done";
/// The kubelet lets go of the inhibitor without waiting for what it has to tell of the pods that ended last: this one takes so long that it has told of the others.
const LAST: &str = "trap 'sleep 8; exit 3' TERM; while :; do sleep 0.2; done";
/// One that leaves the words to the hook.
const SILENT: &str = "trap 'exit 3' TERM; while :; do sleep 0.2; done";

/// The kubelet holds login1's delay inhibitor; its pods end by themselves, ordinary ones first, and their status says why.
pub fn graceful(stage: &mut Stage) -> Result<Outcome> {
    let node = vm(stage)?.clone();
    let mut hooked = script("main", SILENT);
    hooked["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "echo -n hooked >/dev/termination-log"]}}});
    let [critical, last] = [("critical", HANDLER), ("last", LAST)].map(|(name, program)| {
        let mut pod = patient(stage, name, script("main", program))?;
        pod["spec"]["priorityClassName"] = "system-node-critical".into();
        anyhow::Ok(pod)
    });
    let ordinary = patient(stage, "ordinary", script("main", HANDLER))?;
    stage.apply_in(NAMESPACE, &[ordinary, critical?, last?, patient(stage, "hooked", hooked)?])?;
    for name in ["ordinary", "critical", "last", "hooked"] {
        stage.wait_ready(NAMESPACE, &format!("app={name}"), 1)?;
    }
    command_output(stage.cluster.pintle(&node)?.arg("shutdown"))?;
    node.wait_off(within(60))?;
    superblock::is_clean(&node.state_disk())?;
    let console = node.console().text()?;
    ensure!(console.contains("inhibitor released"), "the kubelet held no inhibitor");
    ensure!(!console.contains("still delayed by"), "the kubelet kept its inhibitor");
    for (name, message) in [("ordinary", "handled"), ("critical", "handled"), ("hooked", "hooked")] {
        let pod = stage.get(NAMESPACE, &["pod", name])?;
        ensure!(
            pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "Terminated",
            "the pod {name} is told as {}",
            pod["status"]
        );
        let ended = ended(&pod);
        ensure!(ended["message"] == message, "{name} did not end by itself: {ended}");
    }
    let finished = |name: &str| -> Result<String> {
        let pod = stage.get(NAMESPACE, &["pod", name])?;
        Ok(ended(&pod)["finishedAt"].as_str().context("when it ended")?.to_owned())
    };
    // Times of one format and one clock.
    let (ordinary, critical) = (finished("ordinary")?, finished("critical")?);
    ensure!(ordinary < critical, "the critical pod ended at {critical}, the ordinary one at {ordinary}");
    Ok(Outcome::Passed)
}

fn ended(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

/// A pod with time to end.
fn patient(stage: &Stage, name: &str, container: Value) -> Result<Value> {
    let mut pod = pod(stage, name, json!([container]))?;
    pod["spec"]["terminationGracePeriodSeconds"] = 15.into();
    Ok(pod)
}
