//! Services that hang, and services of which a task panics, while pods print, end and are made.
use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;
use qemu_tests::random::Random;
use qemu_tests::{Look, Vm};
use serde_json::Value;

use super::Stage;
use super::inspector::Inspector;
use super::kills::{Bystanders, Trial, running};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "hangs";
/// Tasks without which a service is none; they run as long as it does.
const ESSENTIAL: [(&str, &[&str]); 2] = [
    ("runtime", &["streams", "imports", "exit ledger"]),
    (
        "agent",
        &[
            "settings",
            "static pods",
            "watch of pods",
            "watch of services",
            "watch of the node",
            "API client",
            "events",
            "mirror pods",
            "node status",
            "lease",
            "port 10250",
            "log rotation",
            "routes",
            "evictions",
            "image collection",
            "shutdown",
            "runtime events",
            "pods",
        ],
    ),
];
/// A task that may fail and is begun again by itself; every pod that mounts a token has one.
const AGAIN: (&str, &str) = ("agent", "watch of a ConfigMap or Secret");

/// How a service fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The whole process stands still (SIGSTOP).
    Stopped,
    /// Its main loop alone does.
    Blocked,
    /// An essential task panics.
    Panics(&'static str),
}

/// Each round stops each service of each node, blocks each one's main loop on one node, and lets an essential
/// task of runtime and agent panic there: the service is started again, PID 1 says why, nothing else hangs, no
/// container restarts, every end is told once and no log line is lost.
pub fn rounds(stage: &mut Stage) -> Result<Outcome> {
    let stage = &*stage;
    let bystanders = Bystanders::start(stage, NAMESPACE)?;
    let mut random = Random::from_clock();
    for round in 0..stage.rounds {
        for vm in stage.nodes() {
            for service in services(stage, vm)? {
                one(stage, vm, &service, Fault::Stopped, round, &mut random)?;
            }
        }
        let vm = &stage.nodes()[random.below(stage.nodes().len())];
        for service in services(stage, vm)? {
            one(stage, vm, &service, Fault::Blocked, round, &mut random)?;
        }
        for (service, tasks) in ESSENTIAL {
            let task = tasks[random.below(tasks.len())];
            one(stage, vm, service, Fault::Panics(task), round, &mut random)?;
        }
        lives_on(stage, vm).with_context(|| format!("round {round}, {AGAIN:?} on {}", vm.name))?;
    }
    bystanders.unharmed(stage)?;
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// One service of one node fails. Those that pods' lives go through do so while pods end.
fn one(stage: &Stage, vm: &Vm, service: &str, fault: Fault, round: usize, random: &mut Random) -> Result<()> {
    let mut tried = || -> Result<()> {
        let executable = format!("pintle-{service}");
        let before = Counts::of(stage)?;
        let told = last_event(stage, vm)?;
        let act = |inspector: &Inspector| match fault {
            Fault::Stopped => inspector.ask(&["stop", &executable]),
            // For longer than anybody waits.
            Fault::Blocked => inspector.ask(&["hook", service, "block", "600"]),
            Fault::Panics(task) => {
                let words: Vec<&str> =
                    ["hook", service, "panic"].into_iter().chain(task.split(' ')).collect();
                inspector.ask(&words)
            }
        };
        let services = [executable.as_str()];
        let trial = Trial { stage, namespace: NAMESPACE, vm, services: &services };
        if matches!(service, "runtime" | "agent") {
            trial.pass(round, random, act)?;
        } else {
            trial.pass_alone(act)?;
        }
        ready(stage, vm, service)?;
        let hangs = u32::from(!matches!(fault, Fault::Panics(_)));
        before.only(&Counts::of(stage)?, &vm.name, service, hangs)?;
        explained(&events_since(stage, vm, service, told)?, hangs > 0)?;
        if let Fault::Panics(task) = fault {
            logged(stage, vm, service, &format!("the task {task:?} has panicked"))?;
        }
        Ok(())
    };
    tried().with_context(|| format!("round {round}, {service} on {}: {fault:?}", vm.name))
}

/// A task that may fail panics: it is begun again, and the service goes on.
fn lives_on(stage: &Stage, vm: &Vm) -> Result<()> {
    let (service, task) = AGAIN;
    let inspector = stage.inspector(vm)?;
    let executable = format!("pintle-{service}");
    let (old, before) = (running(&inspector, &executable)?, Counts::of(stage)?);
    let words: Vec<&str> = ["hook", service, "panic"].into_iter().chain(task.split(' ')).collect();
    inspector.ask(&words)?;
    logged(stage, vm, service, &format!("{task}: task"))?;
    ensure!(running(&inspector, &executable)? == old, "{service} is another process");
    before.same(&Counts::of(stage)?)
}

/// Services that run on a node.
fn services(stage: &Stage, vm: &Vm) -> Result<Vec<String>> {
    let list = list(stage, vm)?;
    let running = list.iter().filter(|service| service["pid"] != "0");
    running.map(|service| Ok(service["service"].as_str().context("a name")?.to_owned())).collect()
}

fn list(stage: &Stage, vm: &Vm) -> Result<Vec<Value>> {
    until(&format!("the services of {}", vm.name), within(60), || {
        // The api itself may just be coming back.
        Ok(match command_output(stage.cluster.pintle(vm)?.args(["services", "--output", "json"])) {
            Ok(text) => Look::Done(serde_json::from_str(&text)?),
            Err(error) => Look::Waiting(format!("{error:#}")),
        })
    })
}

fn ready(stage: &Stage, vm: &Vm, service: &str) -> Result<()> {
    until(&format!("{service} on {} to be ready again", vm.name), within(90), || {
        let list = list(stage, vm)?;
        let own = list.iter().find(|own| own["service"] == service).context("the service")?;
        Ok(if own["state"] == "Ready" { Look::Done(()) } else { Look::Waiting(own.to_string()) })
    })
}

/// PID 1's events, the oldest first.
fn events(stage: &Stage, vm: &Vm) -> Result<Vec<Value>> {
    let text = until(&format!("the events of {}", vm.name), within(60), || {
        Ok(match command_output(stage.cluster.pintle(vm)?.args(["events", "--output", "json"])) {
            Ok(text) => Look::Done(text),
            Err(error) => Look::Waiting(format!("{error:#}")),
        })
    })?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// The number of the last event.
fn last_event(stage: &Stage, vm: &Vm) -> Result<u64> {
    let events = events(stage, vm)?;
    events.iter().filter_map(|event| event["sequence"].as_u64()).max().context("no events")
}

/// Kinds and messages of what PID 1 noted of a service's life since then.
fn events_since(stage: &Stage, vm: &Vm, service: &str, last: u64) -> Result<Vec<(String, String)>> {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let new = events(stage, vm)?.into_iter().filter(|event| event["sequence"].as_u64() > Some(last));
    let own = new.filter(|event| event["source"] == service);
    let told = own.map(|event| (text(&event, "kind"), text(&event, "message")));
    Ok(told.filter(|(kind, _)| kind.starts_with("Service") || kind == "HeartbeatLost").collect())
}

/// What happened stands in the events, in its order, and why.
fn explained(events: &[(String, String)], hung: bool) -> Result<()> {
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    let lost: &[&str] = if hung { &["HeartbeatLost"] } else { &[] };
    let expected = [lost, &["ServiceEnded", "ServiceStarted", "ServiceReady"]].concat();
    ensure!(kinds == expected, "the events are {events:?}, not {expected:?}");
    let why = events.iter().find(|(kind, _)| kind == "ServiceEnded").map(|(_, message)| message.as_str());
    let words = if hung { "no sign of life" } else { "exit code 1" };
    ensure!(why.is_some_and(|why| why.contains(words)), "the end is explained by {why:?}");
    Ok(())
}

fn logged(stage: &Stage, vm: &Vm, service: &str, words: &str) -> Result<()> {
    until(&format!("{words:?} in the log of {service}"), within(30), || {
        let mut command = stage.cluster.pintle(vm)?;
        Ok(match command_output(command.args(["logs", service, "--tail", "500"])) {
            Ok(text) if text.contains(words) => Look::Done(()),
            Ok(_) => Look::Waiting("it is not there".into()),
            Err(error) => Look::Waiting(format!("{error:#}")),
        })
    })
}

/// How often each service of each node was started again, and how often it hung.
#[derive(Debug, PartialEq, Eq)]
struct Counts(Vec<(String, String, u32, u32)>);

impl Counts {
    fn of(stage: &Stage) -> Result<Self> {
        let mut counts = Vec::new();
        for vm in stage.nodes() {
            for service in list(stage, vm)? {
                let text = |field: &str| service[field].as_str().context(format!("no {field}: {service}"));
                let number = |field: &str| -> Result<u32> { Ok(text(field)?.parse()?) };
                let name = text("service")?.to_owned();
                counts.push((vm.name.clone(), name, number("restarts")?, number("hangs")?));
            }
        }
        Ok(Self(counts))
    }

    fn same(&self, after: &Self) -> Result<()> {
        ensure!(self == after, "from {self:?} to {after:?}");
        Ok(())
    }

    /// One service alone was started again, once, and hung so often.
    fn only(self, after: &Self, node: &str, service: &str, hung: u32) -> Result<()> {
        let expected = Self(
            self.0
                .into_iter()
                .map(|(vm, name, restarts, hangs)| {
                    let own = vm == node && name == service;
                    let (once, hung) = if own { (1, hung) } else { (0, 0) };
                    (vm, name, restarts + once, hangs + hung)
                })
                .collect(),
        );
        expected.same(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_restart_or_a_neighbours_hang_is_noticed() {
        let counts = |agent: (u32, u32), net: (u32, u32)| {
            Counts(vec![
                ("pintle-1".into(), "agent".into(), agent.0, agent.1),
                ("pintle-1".into(), "net".into(), net.0, net.1),
            ])
        };
        let before = || counts((3, 1), (0, 0));
        assert!(before().only(&counts((4, 2), (0, 0)), "pintle-1", "agent", 1).is_ok());
        assert!(before().only(&counts((4, 1), (0, 0)), "pintle-1", "agent", 0).is_ok());
        for wrong in [counts((5, 2), (0, 0)), counts((4, 2), (1, 1)), counts((3, 1), (0, 0))] {
            assert!(before().only(&wrong, "pintle-1", "agent", 1).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_hang_that_is_not_told_is_noticed() {
        let event = |kind: &str, message: &str| (kind.to_owned(), message.to_owned());
        let mut told = vec![
            event("HeartbeatLost", "agent (pid 7) gives no sign of life"),
            event("ServiceEnded", "it gave no sign of life and was ended; it starts again"),
            event("ServiceStarted", "started, pid 8"),
            event("ServiceReady", "ready"),
        ];
        assert!(explained(&told, true).is_ok());
        assert!(explained(&told, false).is_err());
        told.remove(0);
        assert!(explained(&told, true).is_err());
        told[0].1 = "ended: exit code 1; it starts again".into();
        assert!(explained(&told, false).is_ok());
    }
}
