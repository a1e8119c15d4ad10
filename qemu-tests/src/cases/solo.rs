//! One machine without a cluster that runs the pods of its config: what runs, what limits they get, what a killed service loses,
//! and how it stops. Needs no control plane, so it is quick.
use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use machine::config::{Document, Role, StaticPod, parse, to_yaml};
use qemu_tests::command::command_output;
use qemu_tests::network::{Forward, free_tcp_port};
use qemu_tests::{Look, Vm, archive};
use serde_json::{Value, json};

use super::Outcome;
use super::cluster::inspector::{IMAGE, Inspector, PORT};
use super::cluster::{limits, manifest, processes, superblock};
use crate::bench::{Bench, until_on, within};

/// What a config must name; nobody answers there, and the machine does not ask.
const ENDPOINT: &str = "https://10.0.2.100:6443";
const NAMESPACE: &str = "default";
const SERVICES: [&str; 3] = ["pintle-runtime", "pintle-agent", "pintle-api"];
const ROUNDS: usize = 2;

/// The machine and the look into it.
struct Solo {
    vm: Vm,
    inspector: Inspector,
}

/// Static pods from the first start to a clean stop.
pub fn life(bench: &Bench) -> Result<Outcome> {
    let solo = start(bench)?;
    let processes = solo.settled()?;
    limits(&solo, &processes).context("limits")?;
    kills(&solo, &processes).context("killed services")?;
    solo.vm.press_power_button()?;
    solo.vm.wait_off(within(60))?;
    superblock::is_clean(&solo.vm.state_disk())?;
    Ok(Outcome::Passed)
}

fn start(bench: &Bench) -> Result<Solo> {
    let tools = bench.tools.as_ref().context("this case needs --pintle and --inspector")?;
    let mut spec = bench.spec();
    spec.config = Some(config(bench, &tools.pintle)?);
    let (api, look) = (free_tcp_port()?, free_tcp_port()?);
    spec.forwards.push(Forward { host: api, guest: machine::paths::API_PORT });
    spec.forwards.push(Forward { host: look, guest: PORT });
    let vm = bench.start(&spec)?;
    let image = bench.folder.join("node-inspector.tar");
    archive::write(&tools.inspector, IMAGE, &["/bin/tar"], &image)?;
    until_on(&vm, "the machine API to take the image", within(60), || {
        let mut pintle = Command::new(&tools.pintle);
        pintle.arg("--config").arg(bench.folder.join("pintleconfig"));
        pintle.args(["--nodes", &format!("127.0.0.1:{api}"), "image", "import"]).arg(&image);
        command_output(&mut pintle).map(Look::Done)
    })?;
    let inspector = Inspector { port: look, node: vm.name.clone() };
    until_on(&vm, "the inspector to answer", within(60), || {
        inspector.ask(&["resolve", "localhost"]).map(Look::Done)
    })?;
    Ok(Solo { vm, inspector })
}

/// The config of a machine without a cluster, with pods on the node's own network.
fn config(bench: &Bench, pintle: &std::path::Path) -> Result<String> {
    let secrets = bench.folder.join("secrets.yaml");
    command_output(Command::new(pintle).args(["gen", "secrets", "--output"]).arg(&secrets))?;
    let mut gen_config = Command::new(pintle);
    gen_config.args(["gen", "config", "solo", ENDPOINT, "--secrets"]).arg(&secrets);
    command_output(gen_config.arg("--output").arg(&bench.folder))?;
    let text = std::fs::read_to_string(bench.folder.join("control-plane.yaml"))?;
    let mut config = match parse("control-plane.yaml", &text) {
        Ok(config) => config,
        Err(faults) => bail!("{faults:?}"),
    };
    config.machine.role = Role::Worker;
    config.machine.join_token = None;
    config.machine.hostname = Some("solo".into());
    config.machine.api_cert_sans.push("127.0.0.1".into());
    let mut documents = vec![Document::Machine(config.machine)];
    let mut inspector = manifest::inspector("solo");
    inspector["metadata"]["name"] = "inspector".into();
    documents.push(static_pod("inspector", &inspector));
    documents.push(static_pod("counter", &on_host(&["count", "50"], &json!({}))));
    let half = json!({"cpu": "500m", "memory": "64Mi"});
    documents.push(static_pod(
        "guaranteed",
        &on_host(&["serve", "8101"], &json!({"requests": half, "limits": half})),
    ));
    let some =
        json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}});
    documents.push(static_pod("burstable", &on_host(&["serve", "8102"], &some)));
    Ok(to_yaml(&documents)?)
}

fn static_pod(name: &str, pod: &Value) -> Document {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    Document::StaticPod(StaticPod { name: name.into(), pod })
}

fn on_host(arguments: &[&str], resources: &Value) -> Value {
    let mut container = manifest::container("main", arguments);
    container["resources"] = resources.clone();
    let mut spec = manifest::pod_spec(json!([container]));
    spec["hostNetwork"] = true.into();
    let name = arguments.join("-");
    manifest::pod(&name, spec)
}

impl Solo {
    /// The pods' processes by their command, once all run and nobody else does.
    fn settled(&self) -> Result<BTreeMap<String, Value>> {
        until_on(&self.vm, "the pods to run, and nothing strange", within(60), || {
            let snapshot = self.inspector.json(&["snapshot"])?;
            let all = snapshot["processes"].as_array().context("processes")?;
            let strange = processes::strangers(all);
            let pods: BTreeMap<String, Value> = all
                .iter()
                .filter(|process| {
                    process["cgroup"].as_str().is_some_and(|path| path.starts_with("/kubepods/"))
                })
                .map(|process| (process["command"].as_str().unwrap_or_default().to_owned(), process.clone()))
                .collect();
            Ok(if strange.is_empty() && pods.len() == 4 {
                Look::Done(pods)
            } else {
                Look::Waiting(format!("{:?} run; strange: {}", pods.keys(), strange.join("; ")))
            })
        })
    }
}

fn limits(solo: &Solo, processes: &BTreeMap<String, Value>) -> Result<()> {
    for (command, pod_weight, settings) in [
        ("/node-inspector serve 8101", "20", ("59", "50000", "67108864")),
        ("/node-inspector serve 8102", "4", ("17", "25000", "67108864")),
        ("/node-inspector count 50", "1", ("1", "max", "max")),
    ] {
        let process = processes.get(command).with_context(|| format!("{command} does not run"))?;
        let path = process["cgroup"].as_str().context("the cgroup")?;
        let (pod, _) = path.rsplit_once('/').context("the pod's cgroup")?;
        let uid = pod.rsplit_once("/pod").context("the pod's uid")?.1;
        let cgroups = solo.inspector.json(&["cgroups", uid])?;
        limits::compare(pod, &cgroups[pod], (pod_weight, settings.1, settings.2), &limits::pod_pids())?;
        limits::compare(path, &cgroups[path], settings, "max")?;
    }
    Ok(())
}

/// Kills each service a few times: the pods' processes stay the same, and no line of the counter is missing or doubled.
fn kills(solo: &Solo, before: &BTreeMap<String, Value>) -> Result<()> {
    for _ in 0..ROUNDS {
        for service in SERVICES {
            let old: i64 =
                solo.inspector.ask(&["kill", service])?.trim().parse().context("the pid of the killed")?;
            until_on(&solo.vm, &format!("{service} to run again"), within(60), || {
                let snapshot = solo.inspector.json(&["snapshot"])?;
                let executable = format!("/usr/lib/pintle/{service}");
                let again = snapshot["processes"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|process| process["executable"] == executable.as_str() && process["pid"] != old);
                Ok(if again { Look::Done(()) } else { Look::Waiting("not yet".into()) })
            })?;
        }
    }
    let after = solo.settled()?;
    for (command, process) in before {
        let now = after.get(command).with_context(|| format!("{command} is gone"))?;
        ensure!(
            now["pid"] == process["pid"] && now["start"] == process["start"],
            "{command} was started again: {process} is now {now}"
        );
    }
    let pod = "count-50-solo";
    until_on(&solo.vm, "the counter's log to be whole", within(30), || {
        let seen = solo.inspector.json(&["sequence", NAMESPACE, pod, "main"])?;
        let empty = |field: &str| seen[field].as_array().is_some_and(Vec::is_empty);
        let whole = seen["first"] == 1 && empty("missing") && empty("doubled") && empty("odd");
        Ok(if whole { Look::Done(()) } else { Look::Waiting(seen.to_string()) })
    })
}
