//! SIGKILL for our services while pods print, end and are made.
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::random::Random;
use qemu_tests::{Look, Vm};

use super::ends::Ending;
use super::inspector::Inspector;
use super::{Stage, manifest};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "kills";
/// What is killed at once.
const VICTIMS: [&[&str]; 4] =
    [&["pintle-runtime"], &["pintle-agent"], &["pintle-runtime", "pintle-agent"], &["pintle-api"]];
/// Pods that print, per node, and their lines per second.
const COUNTERS: usize = 2;
const RATE: &str = "50";

/// Each round kills each service on one node, and runtime and agent together, while pods there print, end in every way and start: no container restarts, every
/// end is reported once, with the right code, reason and time, no log line is missing or doubled.
pub fn rounds(stage: &mut Stage) -> Result<Outcome> {
    let bystanders = Bystanders::start(stage, NAMESPACE)?;
    let mut random = Random::from_clock();
    for round in 0..stage.rounds {
        for services in VICTIMS {
            let vm = &stage.nodes()[random.below(stage.nodes().len())];
            let trial = Trial { stage, namespace: NAMESPACE, vm, services };
            trial
                .pass(round, &mut random, |inspector| inspector.ask(&[&["kill"], services].concat()))
                .with_context(|| format!("round {round}, {} on {}", services.join(" and "), vm.name))?;
        }
    }
    bystanders.unharmed(stage)?;
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// Containers that nothing may happen to, among them some of each node that print.
pub struct Bystanders {
    namespace: &'static str,
    before: BTreeMap<String, String>,
}

impl Bystanders {
    /// Makes the namespace and the pods that print.
    pub fn start(stage: &Stage, namespace: &'static str) -> Result<Self> {
        stage.namespace(namespace)?;
        for vm in stage.nodes() {
            let spec = manifest::one(&vm.name, &["count", RATE]);
            stage.apply_in(
                namespace,
                &[manifest::deployment(&format!("count-{}", vm.name), COUNTERS, spec)],
            )?;
        }
        for vm in stage.nodes() {
            stage.wait_ready(namespace, &format!("app=count-{}", vm.name), COUNTERS)?;
        }
        Ok(Self { namespace, before: containers(stage)? })
    }

    /// No container was started again, no line of a log is missing or doubled.
    pub fn unharmed(&self, stage: &Stage) -> Result<()> {
        unchanged(&self.before, &containers(stage)?)?;
        stage.nodes().iter().try_for_each(|vm| whole_logs(stage, self.namespace, vm))
    }
}

/// Services of a node to which something happens while pods end there.
pub struct Trial<'a> {
    pub stage: &'a Stage,
    pub namespace: &'a str,
    pub vm: &'a Vm,
    /// Names of their executables.
    pub services: &'a [&'a str],
}

impl Trial<'_> {
    /// Lets it happen; afterwards each service runs as another process.
    pub fn pass_alone(&self, act: impl FnOnce(&Inspector) -> Result<String>) -> Result<()> {
        let inspector = self.stage.inspector(self.vm)?;
        let old = self.starts(&inspector)?;
        act(&inspector)?;
        self.run_again(&inspector, &old)
    }

    /// When each service's process was started.
    fn starts(&self, inspector: &Inspector) -> Result<Vec<u64>> {
        self.services.iter().map(|service| running(inspector, service)).collect()
    }

    fn run_again(&self, inspector: &Inspector, old: &[u64]) -> Result<()> {
        let what = format!("{} to run again", self.services.join(" and "));
        until(&what, within(60), || match self.starts(inspector) {
            Ok(new) if new.iter().zip(old).all(|(new, old)| new != old) => Ok(Look::Done(())),
            Ok(_) => Ok(Look::Waiting("one is still the old process".into())),
            Err(error) => Ok(Look::Waiting(format!("{error:#}"))),
        })
    }

    /// Lets it happen around the moment at which pods end; afterwards each service runs as another process, and every end was told, once.
    pub fn pass(
        &self,
        round: usize,
        random: &mut Random,
        act: impl FnOnce(&Inspector) -> Result<String>,
    ) -> Result<()> {
        let Self { stage, namespace, vm, services } = *self;
        let inspector = stage.inspector(vm)?;
        let old = self.starts(&inspector)?;
        let watch = Watch::start(stage, namespace)?;
        let endings = Ending::several(&format!("end-{round}-{}", services.join("-")), round);
        for ending in &endings {
            stage.apply_in(namespace, &[ending.pod(&vm.name)])?;
        }
        std::thread::sleep(Duration::from_millis(random.below(5000) as u64));
        act(&inspector)?;
        let ended = endings.iter().map(|ending| stage.wait_ended(namespace, &ending.name));
        let ended = ended.collect::<Result<Vec<_>>>()?;
        self.run_again(&inspector, &old)?;
        for (ending, pod) in endings.iter().zip(&ended) {
            let said = until(&format!("what {} said", ending.name), within(60), || {
                // The agent that came back may not serve yet.
                Ok(match stage.run(namespace, &["logs", &ending.name]) {
                    Ok(said) => Look::Done(said),
                    Err(error) => Look::Waiting(format!("{error:#}")),
                })
            })?;
            ending.is_told(&pod["status"]["containerStatuses"][0], &said)?;
        }
        watch.ends_once(&endings)?;
        for ending in &endings {
            stage.run(namespace, &["delete", "pod", &ending.name, "--wait=false"])?;
        }
        Ok(())
    }
}

/// Start time of a service's process: another one is another process.
pub fn running(inspector: &Inspector, service: &str) -> Result<u64> {
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
fn whole_logs(stage: &Stage, namespace: &str, vm: &Vm) -> Result<()> {
    let inspector = stage.inspector(vm)?;
    let pods = stage.get(namespace, &["pods", "--selector", &format!("app=count-{}", vm.name)])?;
    for pod in pods["items"].as_array().context("pods")? {
        let name = pod["metadata"]["name"].as_str().context("the pod's name")?;
        let seen = inspector.json(&["sequence", namespace, name, "main"])?;
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
    fn start(stage: &Stage, namespace: &str) -> Result<Self> {
        let output = stage.cluster.folder.join("watch.jsonl");
        let file = std::fs::File::create(&output)?;
        let mut command: Command = stage.kubectl(namespace);
        command.args([
            "get",
            "pods",
            "--watch",
            "--output=jsonpath={.metadata.name} {.status.containerStatuses[0].state.terminated}{\"\\n\"}",
        ]);
        let child = command.stdin(Stdio::null()).stdout(file).spawn().context("run kubectl get --watch")?;
        Ok(Self { child, output })
    }

    /// Each pod's end was told once: one exit code, one time. A watch that tells nothing is a fault too.
    fn ends_once(&self, endings: &[Ending]) -> Result<()> {
        for Ending { name, .. } in endings {
            let ends = until(&format!("the watch to tell that {name} has ended"), within(30), || {
                let ends = ends_of(name, &std::fs::read_to_string(&self.output)?);
                Ok(if ends.is_empty() {
                    Look::Waiting("it has told nothing".into())
                } else {
                    Look::Done(ends)
                })
            })?;
            ensure!(ends.len() == 1, "{name} ended more than once: {ends:?}");
        }
        Ok(())
    }
}

/// The different ends of a pod in a watch's lines of name and state.
fn ends_of(pod: &str, text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, state)| *name == pod && state.contains("exitCode"))
        .map(|(_, state)| state.to_owned())
        .collect()
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_end_told_again_is_one_and_another_is_not() {
        let text = "a \na {\"exitCode\":3,\"finishedAt\":\"1\"}\nab {\"exitCode\":9}\na {\"exitCode\":3,\"finishedAt\":\"1\"}\n";
        assert_eq!(ends_of("a", text).len(), 1);
        assert_eq!(ends_of("a", &format!("{text}a {{\"exitCode\":137}}\n")).len(), 2);
        assert!(ends_of("b", text).is_empty());
    }
}
