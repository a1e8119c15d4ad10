//! What a bystander on the node sees: how long its pods' starts, execs and deletions take.
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_tests::Vm;
use serde_json::{Value, json};

use super::super::cluster::{Stage, manifest};
use super::NAMESPACE;

/// The figures of one condition.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// From the request to Ready, an HTTP probe and an exec probe in it.
    pub start: Vec<Duration>,
    pub exec: Vec<Duration>,
    /// From the request until the pod is gone.
    pub delete: Vec<Duration>,
    /// What did not work, with its words.
    pub failures: Vec<String>,
}

/// Lives of a bystander one after another, at least three and at most `rounds`, for about this long.
pub fn bystander(stage: &Stage, vm: &Vm, rounds: usize, time: Duration) -> Result<Figures> {
    let mut figures = Figures::default();
    let began = Instant::now();
    for round in 0..rounds {
        if round >= 3 && began.elapsed() > time {
            break;
        }
        if let Err(fault) = life(stage, vm, round, &mut figures) {
            figures.failures.push(format!("round {round}: {fault:#}"));
        }
    }
    Ok(figures)
}

fn life(stage: &Stage, vm: &Vm, round: usize, figures: &mut Figures) -> Result<()> {
    let name = format!("bystander-{round}");
    let start = Instant::now();
    stage.apply_in(NAMESPACE, &[manifest::pod(&name, probed(&vm.name))])?;
    let pod = format!("pod/{name}");
    let wait = ["wait", "--for=condition=Ready", &pod, "--timeout=240s"];
    let ready = stage.run_for(NAMESPACE, &wait, Duration::from_secs(300)).context("its start");
    if ready.is_ok() {
        figures.start.push(start.elapsed());
        let exec = Instant::now();
        let words = ["exec", &name, "--", "/node-inspector", "exit", "0"];
        stage.run_for(NAMESPACE, &words, Duration::from_secs(300)).context("an exec in it")?;
        figures.exec.push(exec.elapsed());
    }
    let delete = Instant::now();
    stage
        .run_for(NAMESPACE, &["delete", "pod", &name, "--timeout=240s"], Duration::from_secs(300))
        .context("its deletion")?;
    figures.delete.push(delete.elapsed());
    ready.map(drop)
}

/// A pod that is Ready once both kinds of probe have succeeded.
fn probed(node: &str) -> Value {
    let mut spec = manifest::one(node, &["serve"]);
    spec["containers"][0]["startupProbe"] = json!({"exec": {"command": ["/node-inspector", "exit", "0"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 100});
    spec["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10});
    spec
}
