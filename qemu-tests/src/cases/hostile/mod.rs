//! Hostile pods on a two-node cluster: each kind alone, then all of a group together. Meanwhile a bystander's pods start, are looked into and are deleted
//! nearly as fast as beside pods that only burn processor time; nobody else's pod ends; no service is ended; at the end everything can be deleted without a
//! trace.
mod kinds;
mod measure;
mod outside;
mod services;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::{Look, Vm};
use serde_json::Value;

use super::Outcome;
use super::cluster::{Stage, manifest, trace};
use crate::bench::{until, within};
use crate::report::{Report, attempt};
use kinds::{Group, KINDS, Kind};
use measure::Figures;
use outside::Outsiders;

const NAMESPACE: &str = "hostile";
/// Pods that run through everything.
const WITNESSES: &str = "witnesses";
const WITNESS_PODS: usize = 3;
/// Lives of the bystander for a median.
const ROUNDS: usize = 20;

/// How long the campaign takes.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Each kind alone.
    pub alone: Duration,
    /// All of a group.
    pub together: Duration,
}

/// Plays every kind whose name contains `only`, then the groups.
pub fn play(stage: &Stage, only: Option<&str>, times: Times, report: &mut Report) -> Result<()> {
    let vm = stage.nodes().last().context("a node")?;
    stage.namespace(NAMESPACE)?;
    stage.namespace(WITNESSES)?;
    let witnesses = manifest::deployment("witness", WITNESS_PODS, manifest::one(&vm.name, &["count", "5"]));
    stage.apply_in(WITNESSES, &[witnesses])?;
    stage.wait_ready(WITNESSES, "app=witness", WITNESS_PODS)?;
    let mut calm = Calm::default();
    let wanted: Vec<&Kind> =
        KINDS.iter().filter(|kind| only.is_none_or(|only| kind.name.contains(only))).collect();
    for kind in &wanted {
        let tried = attempt(|| trial(stage, vm, &[*kind], times.alone, &mut calm).map(|()| Outcome::Passed));
        report.add(kind.name, tried);
    }
    for (name, group) in [("baseline_together", Group::Baseline), ("host_together", Group::Host)] {
        let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.group == group).collect();
        if only.is_none_or(|only| name.contains(only)) {
            let tried =
                attempt(|| trial(stage, vm, &kinds, times.together, &mut calm).map(|()| Outcome::Passed));
            report.add(name, tried);
        }
    }
    Ok(())
}

/// The bystander's figures beside so many pods that only burn.
#[derive(Debug, Default)]
struct Calm(BTreeMap<usize, Figures>);

impl Calm {
    fn beside(&mut self, stage: &Stage, vm: &Vm, pods: usize, time: Duration) -> Result<Figures> {
        if let Some(figures) = self.0.get(&pods) {
            return Ok(figures.clone());
        }
        let burners = manifest::deployment("burner", pods, manifest::one(&vm.name, &["hostile", "burn"]));
        stage.apply_in(NAMESPACE, &[burners])?;
        stage.wait_ready(NAMESPACE, "app=burner", pods)?;
        let figures = measure::bystander(stage, vm, ROUNDS, time)?;
        stage
            .run(NAMESPACE, &["delete", "deployment", "burner", "--cascade=foreground", "--timeout=240s"])?;
        ensure!(figures.failures.is_empty(), "beside burners: {}", figures.failures.join("; "));
        self.0.insert(pods, figures.clone());
        Ok(figures)
    }
}

/// One or more kinds at once, for a time.
fn trial(stage: &Stage, vm: &Vm, kinds: &[&Kind], time: Duration, calm: &mut Calm) -> Result<()> {
    let calm = calm.beside(stage, vm, kinds.iter().map(|kind| kind.count()).sum(), time)?;
    let mut names = trace::containers(stage)?;
    let snapshot = trace::settled_on(stage, vm)?;
    let witnesses = witnesses(stage)?;
    let before = services::of(stage, vm)?;
    for kind in kinds {
        stage.apply_in(NAMESPACE, &kind.pods(&vm.name))?;
    }
    begun(stage, kinds)?;
    let outsiders = Outsiders::start(stage, kinds);
    let under = measure::bystander(stage, vm, ROUNDS, time);
    let after = services::of(stage, vm);
    outsiders.stop();
    let removed = remove(stage, kinds);
    let (under, after) = (under?, after?);
    let mut faults = verdict::faults(&calm, &under, &before, &after);
    faults.extend(removed.err().map(|fault| format!("{fault:#}")));
    let now = self::witnesses(stage)?;
    faults.extend(
        witnesses
            .iter()
            .filter(|witness| !now.contains(witness))
            .map(|witness| format!("{witness} is no more")),
    );
    let inspector = stage.inspector(vm)?;
    let traces = until("the node to be as before", within(120), || {
        names.extend(trace::containers(stage)?);
        let left = trace::difference(&snapshot, &inspector.json(&["snapshot"])?, &names);
        Ok(if left.is_empty() { Look::Done(()) } else { Look::Waiting(left.join("; ")) })
    });
    faults.extend(traces.err().map(|fault| format!("{fault:#}")));
    println!(
        "         start {:.1?} (calm {:.1?}), exec {:.1?} ({:.1?}), deletion {:.1?} ({:.1?}) of {} lives",
        verdict::median(&under.start),
        verdict::median(&calm.start),
        verdict::median(&under.exec),
        verdict::median(&calm.exec),
        verdict::median(&under.delete),
        verdict::median(&calm.delete),
        under.delete.len(),
    );
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n  ")) }
}

/// Waits until each hostile pod has been looked at by its node: it runs, has ended or waits for a reason.
fn begun(stage: &Stage, kinds: &[&Kind]) -> Result<()> {
    for kind in kinds {
        for number in 0..kind.count() {
            let name = kind.pod_name(number);
            until(&format!("{name} to begin"), within(60), || {
                let pod = stage.get(NAMESPACE, &["pod", &name])?;
                let state = &pod["status"]["containerStatuses"][0]["state"];
                let begun = state["waiting"]["reason"] != "ContainerCreating" && !state.is_null();
                Ok(if begun { Look::Done(()) } else { Look::Waiting(state.to_string()) })
            })?;
        }
    }
    Ok(())
}

fn remove(stage: &Stage, kinds: &[&Kind]) -> Result<()> {
    let names = kinds.iter().flat_map(|kind| (0..kind.count()).map(|number| kind.pod_name(number)));
    let names: Vec<String> = names.collect();
    let mut words = vec!["delete", "pod", "--timeout=240s"];
    words.extend(names.iter().map(String::as_str));
    stage.run_for(NAMESPACE, &words, Duration::from_secs(300)).map(drop).context("delete the hostile pods")
}

/// Name, container and restarts of each witness.
fn witnesses(stage: &Stage) -> Result<Vec<String>> {
    let list = stage.get(WITNESSES, &["pods"])?;
    let pods = list["items"].as_array().context("pods")?;
    let word = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        format!(
            "{} ({}, started again {} times)",
            pod["metadata"]["name"], status["containerID"], status["restartCount"]
        )
    };
    Ok(pods.iter().map(word).collect())
}
