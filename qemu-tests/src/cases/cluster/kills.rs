//! SIGKILL for our services while pods print, end and are made.
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::random::Random;
use qemu_tests::{Look, Vm};

use super::inspector::Inspector;
use super::{Stage, manifest};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "kills";
const SERVICES: [&str; 3] = ["pintle-runtime", "pintle-agent", "pintle-api"];
/// Pods that print, per node, and their lines per second.
const COUNTERS: usize = 2;
const RATE: &str = "50";
/// Pods per round that end, each with a code of its own.
const ENDING: u8 = 4;

/// Each round kills each service on one node while pods there print, end with a code and start: no container restarts, every exit code is
/// reported once and right, no log line is missing or doubled.
pub fn rounds(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    for vm in stage.nodes() {
        let spec = manifest::one(&vm.name, &["count", RATE]);
        stage.apply_in(NAMESPACE, &[manifest::deployment(&format!("count-{}", vm.name), COUNTERS, spec)])?;
    }
    for vm in stage.nodes() {
        stage.wait_ready(NAMESPACE, &format!("app=count-{}", vm.name), COUNTERS)?;
    }
    let before = containers(stage)?;
    let mut random = Random::from_clock();
    for round in 0..stage.rounds {
        for service in SERVICES {
            let vm = &stage.nodes()[random.below(stage.nodes().len())];
            one(stage, vm, service, round, &mut random)
                .with_context(|| format!("round {round}, {service} on {}", vm.name))?;
        }
    }
    unchanged(&before, &containers(stage)?)?;
    for vm in stage.nodes() {
        whole_logs(stage, vm)?;
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// Pods that end around the moment of the kill.
fn one(stage: &Stage, vm: &Vm, service: &str, round: usize, random: &mut Random) -> Result<()> {
    let inspector = stage.inspector(vm)?;
    let old = running(&inspector, service)?;
    let watch = Watch::start(stage)?;
    let codes: Vec<(String, u8)> =
        (0..ENDING).map(|number| (format!("end-{round}-{service}-{number}"), 40 + number)).collect();
    for (number, (name, code)) in codes.iter().enumerate() {
        // The first ones have ended before the kill, the last ones are about to start.
        let seconds = (number * 2).to_string();
        let spec = manifest::once(&vm.name, &["exit", &code.to_string(), &seconds]);
        stage.apply_in(NAMESPACE, &[manifest::pod(name, spec)])?;
    }
    std::thread::sleep(Duration::from_millis(random.below(4000) as u64));
    inspector.ask(&["kill", service])?;
    for (name, code) in &codes {
        let pod = stage.wait_ended(NAMESPACE, name)?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        ensure!(ended["exitCode"] == *code, "{name} ended with {ended}, not with {code}");
        ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{name} was started again");
    }
    until(&format!("{service} to run again"), within(60), || {
        let new = running(&inspector, service)?;
        Ok(if new == old { Look::Waiting(format!("it is still {old}")) } else { Look::Done(()) })
    })?;
    watch.ends_once(&codes)?;
    for (name, _) in &codes {
        stage.run(NAMESPACE, &["delete", "pod", name, "--wait=false"])?;
    }
    Ok(())
}

/// Start time of a service's process: another one is another process.
fn running(inspector: &Inspector, service: &str) -> Result<u64> {
    let snapshot = inspector.json(&["snapshot"])?;
    let executable = format!("/usr/lib/pintle/{service}");
    let processes = snapshot["processes"].as_array().context("processes")?;
    let process = processes.iter().find(|process| process["executable"] == executable.as_str());
    process.and_then(|process| process["start"].as_u64()).with_context(|| format!("{service} does not run"))
}

/// `namespace/pod/container` of every container that is to go on, with its id and how often it was started again.
fn containers(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let list = stage.get("default", &["pods", "--all-namespaces"])?;
    let mut containers = BTreeMap::new();
    for pod in list["items"].as_array().context("pods")? {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            if status["state"]["running"].is_null() {
                continue;
            }
            let name =
                format!("{}/{}/{}", pod["metadata"]["namespace"], pod["metadata"]["name"], status["name"]);
            let id = format!("{} started again {} times", status["containerID"], status["restartCount"]);
            containers.insert(name.replace('"', ""), id);
        }
    }
    Ok(containers)
}

fn unchanged(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    for (name, id) in before {
        let now = after.get(name);
        ensure!(now == Some(id), "{name} was {id}, and now is {now:?}");
    }
    Ok(())
}

/// Every counter's log on a node has each number once.
fn whole_logs(stage: &Stage, vm: &Vm) -> Result<()> {
    let inspector = stage.inspector(vm)?;
    let pods = stage.get(NAMESPACE, &["pods", "--selector", &format!("app=count-{}", vm.name)])?;
    for pod in pods["items"].as_array().context("pods")? {
        let name = pod["metadata"]["name"].as_str().context("the pod's name")?;
        let seen = inspector.json(&["sequence", NAMESPACE, name, "main"])?;
        let empty = |field: &str| seen[field].as_array().is_some_and(Vec::is_empty);
        ensure!(
            seen["first"] == 1 && empty("missing") && empty("doubled") && empty("odd"),
            "the log of {name} on {}: {seen}",
            vm.name
        );
    }
    Ok(())
}

/// All states of pods as the API server tells them, while it runs.
struct Watch {
    child: std::process::Child,
    output: std::path::PathBuf,
}

impl Watch {
    fn start(stage: &Stage) -> Result<Self> {
        let output = stage.cluster.folder.join("watch.jsonl");
        let file = std::fs::File::create(&output)?;
        let mut command: Command = stage.kubectl(NAMESPACE);
        command.args([
            "get",
            "pods",
            "--watch",
            "--output=jsonpath={.metadata.name} {.status.containerStatuses[0].state.terminated}{\"\\n\"}",
        ]);
        let child = command.stdin(Stdio::null()).stdout(file).spawn().context("run kubectl get --watch")?;
        Ok(Self { child, output })
    }

    /// Each pod's end was told once: one exit code, one time.
    fn ends_once(&self, codes: &[(String, u8)]) -> Result<()> {
        let text = std::fs::read_to_string(&self.output)?;
        for (name, _) in codes {
            let ends: BTreeSet<&str> = text
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(pod, state)| pod == name && state.contains("exitCode"))
                .map(|(_, state)| state)
                .collect();
            ensure!(ends.len() <= 1, "{name} ended more than once: {ends:?}");
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
