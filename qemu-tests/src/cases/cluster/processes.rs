//! What runs on a node.
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use qemu_tests::{Look, Vm};
use serde_json::Value;

use super::{Stage, manifest};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "processes";
const PODS: usize = 4;
/// Services of ours, and the helper that is there only while a container starts.
const OURS: [&str; 7] = [
    "pintle-init",
    "pintle-net",
    "pintle-api",
    "pintle-runtime",
    "pintle-agent",
    "pintle-control-plane",
    "pintle-launch",
];

/// Kernel threads, our services, and in each container what its image says; nothing of ours stays behind after a start.
pub fn only(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    for vm in stage.nodes() {
        let spec = manifest::one(&vm.name, &["serve"]);
        stage.apply_in(NAMESPACE, &[manifest::deployment(&vm.name, PODS, spec)])?;
    }
    for vm in stage.nodes() {
        stage.wait_ready(NAMESPACE, &format!("app={}", vm.name), PODS)?;
    }
    for vm in stage.nodes() {
        let processes = only_known(stage, vm)?;
        let pods = stage.get(NAMESPACE, &["pods", "--selector", &format!("app={}", vm.name)])?;
        for pod in pods["items"].as_array().context("pods")? {
            one_process(pod, &processes)?;
        }
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// Waits until a node has no strangers: our services start a helper for a moment now and then. Returns the node's processes.
pub fn only_known(stage: &Stage, vm: &Vm) -> Result<Vec<Value>> {
    let inspector = stage.inspector(vm)?;
    until(&format!("only known processes on {}", vm.name), within(30), || {
        let snapshot = inspector.json(&["snapshot"])?;
        let processes = snapshot["processes"].as_array().context("processes")?;
        let strange = strangers(processes);
        Ok(if strange.is_empty() { Look::Done(processes.clone()) } else { Look::Waiting(strange.join("; ")) })
    })
}

/// Processes that are neither the kernel's, nor our services, nor a pod's own.
pub fn strangers(processes: &[Value]) -> Vec<String> {
    let mut strange = Vec::new();
    let mut services: BTreeMap<&str, usize> = BTreeMap::new();
    for process in processes.iter().filter(|process| process["kernel"] != true) {
        let text = |name: &str| process[name].as_str().unwrap_or_default();
        let (cgroup, executable) = (text("cgroup"), text("executable"));
        let ours = executable.strip_prefix("/usr/lib/pintle/").filter(|name| OURS.contains(name));
        let say = |what: &str| {
            format!("{what}: {} {executable} {:?} in {cgroup:?}", process["pid"], text("command"))
        };
        if process["zombie"] == true {
            strange.push(say("a zombie"));
        } else if cgroup.starts_with("/kubepods/") {
            if ours.is_some() {
                strange.push(say("a process of ours in a pod"));
            }
        } else {
            match ours {
                Some("pintle-launch") => strange.push(say("a launcher that stays")),
                Some(name) => *services.entry(name).or_default() += 1,
                None => strange.push(say("neither ours nor a pod's")),
            }
        }
    }
    strange.extend(
        services
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(|(name, count)| format!("{count} processes of {name}")),
    );
    strange
}

/// A pod of the test image has one process: its container's.
fn one_process(pod: &Value, processes: &[Value]) -> Result<()> {
    let cgroup = format!("pod{}", pod["metadata"]["uid"].as_str().context("the pod's uid")?);
    let own: Vec<&Value> = processes
        .iter()
        .filter(|process| process["cgroup"].as_str().is_some_and(|path| path.contains(&cgroup)))
        .collect();
    ensure!(
        matches!(own.as_slice(), [process] if process["command"] == "/node-inspector serve"),
        "processes of pod {}: {own:?}",
        pod["metadata"]["name"]
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strangers_are_told_apart() {
        let process = |executable: &str, cgroup: &str| json!({"kernel": false, "zombie": false, "executable": executable, "cgroup": cgroup, "command": "", "pid": 1});
        let good = [
            json!({"kernel": true, "executable": "", "cgroup": "/"}),
            process("/usr/lib/pintle/pintle-init", "/init"),
            process("/usr/lib/pintle/pintle-agent", "/system/agent"),
            process("/usr/local/bin/kubernetes", "/kubepods/podx/y"),
        ];
        assert_eq!(strangers(&good), Vec::<String>::new());
        for bad in [
            process("/pause", "/system/agent"),
            process("/usr/lib/pintle/pintle-launch", "/runtime"),
            process("/usr/lib/pintle/pintle-launch", "/kubepods/podx/y"),
        ] {
            assert_eq!(strangers(&[bad]).len(), 1);
        }
    }
}
