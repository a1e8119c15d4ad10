//! The cluster that stories share, and how they speak with it.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu_tests::cluster::{self, Layout, Programs};
use qemu_tests::command::command_output;
use qemu_tests::{Accel, Cluster, Look, Progress, Vm};
use serde_json::{Value, json};

use super::inspector::{self, Inspector};
use super::{manifest, programs};
use crate::bench::{until, within};

/// Namespace of the pods that look into nodes.
const NAMESPACE: &str = "inspector";
/// Services of a node whose logs are kept after a failure.
const SERVICES: [&str; 5] = ["runtime", "agent", "control-plane", "api", "net"];

/// What a stage is made of.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub image: PathBuf,
    pub programs: Programs,
    /// The static executable of the test image.
    pub inspector: PathBuf,
    pub nodes: u8,
    /// How often each thing that is repeated is done.
    pub rounds: usize,
    pub folder: PathBuf,
    /// Where nodes pull images from instead of the registries in their names.
    pub mirror: Option<String>,
    /// Takes the cluster of the last run if it still runs.
    pub reuse: bool,
    /// Leaves the cluster running.
    pub keep: bool,
}

/// A cluster with an inspector on each node.
#[derive(Debug)]
pub struct Stage {
    pub cluster: Cluster,
    pub layout: Layout,
    pub rounds: usize,
    folder: PathBuf,
    keep: bool,
}

impl Stage {
    /// Boots the machines, unless those of the last run are to be used and run.
    pub fn start(wanted: &Wanted) -> Result<Self> {
        Self::start_with(wanted, |_| Ok(BTreeMap::new()))
    }

    /// As [`Self::start`], with machine configs of their own for some nodes. `configs` is asked once the cluster's secrets are in its folder.
    pub fn start_with(
        wanted: &Wanted,
        configs: impl FnOnce(&Layout) -> Result<BTreeMap<u8, String>>,
    ) -> Result<Self> {
        let mut layout = Layout {
            nodes: wanted.nodes,
            memory: 2560,
            ports: vec![inspector::PORT],
            mirror: wanted.mirror.clone(),
            // Stories ask services to fail.
            append: "pintle.test-hooks".into(),
            ..Layout::default()
        };
        let old = if wanted.reuse { Cluster::load(&wanted.folder, wanted.programs.clone())? } else { None };
        let cluster = match old {
            Some(old) if old.state.nodes.iter().all(Vm::runs) => old,
            _ => {
                if wanted.folder.exists() {
                    std::fs::remove_dir_all(&wanted.folder)
                        .with_context(|| format!("empty {}", wanted.folder.display()))?;
                }
                cluster::generate(&wanted.programs.pintle, &wanted.folder, &layout)?;
                layout.configs = configs(&layout)?;
                Cluster::start(&wanted.folder, &layout, &wanted.image, wanted.programs.clone())?
            }
        };
        Ok(Self { cluster, layout, rounds: wanted.rounds, folder: wanted.folder.clone(), keep: wanted.keep })
    }

    /// Waits for the nodes, gives them the test image and starts the inspectors.
    pub fn prepare(&self, executable: &Path) -> Result<()> {
        self.wait_for_nodes()?;
        let archive = self.folder.join("node-inspector.tar");
        qemu_tests::archive::write(executable, inspector::IMAGE, &["/bin/tar"], &archive)?;
        self.apply(&[manifest::namespace(NAMESPACE)])?;
        for vm in self.nodes() {
            command_output(self.cluster.pintle(vm)?.args(["image", "import"]).arg(&archive))
                .with_context(|| format!("import the test image on {}", vm.name))?;
            self.apply_in(NAMESPACE, &[manifest::inspector(&vm.name)])?;
        }
        self.wait_for_inspectors()
    }

    /// Waits until every node is Ready.
    pub fn wait_for_nodes(&self) -> Result<()> {
        let progress = Progress::start();
        let patience = Accel::detect().patience() * 4;
        self.cluster.wait_for_machines(&progress, patience)?;
        self.cluster.wait_for_nodes(&progress, patience)
    }

    /// Waits until the inspector of each node answers.
    pub fn wait_for_inspectors(&self) -> Result<()> {
        for vm in self.nodes() {
            let inspector = self.inspector(vm)?;
            until(&format!("the inspector on {}", vm.name), within(60), || {
                inspector.ask(&["resolve", "localhost"]).map(Look::Done)
            })?;
        }
        Ok(())
    }

    pub fn nodes(&self) -> &[Vm] {
        &self.cluster.state.nodes
    }

    pub fn inspector(&self, vm: &Vm) -> Result<Inspector> {
        Ok(Inspector { port: vm.port(inspector::PORT)?, node: vm.name.clone() })
    }

    /// kubectl for one namespace, without a timeout of its own.
    pub fn kubectl(&self, namespace: &str) -> Command {
        let mut command = self.cluster.kubectl().streaming();
        command.args(["--namespace", namespace]);
        command
    }

    /// Runs kubectl in a namespace; fails at a generous deadline.
    pub fn run(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        programs::run(self.kubectl(namespace).args(arguments), "", within(60))
    }

    /// As [`Self::run`], with a deadline of its own: for commands that wait themselves.
    pub fn run_for(&self, namespace: &str, arguments: &[&str], deadline: Duration) -> Result<String> {
        programs::run(self.kubectl(namespace).args(arguments), "", deadline)
    }

    /// An object or list as JSON.
    pub fn get(&self, namespace: &str, arguments: &[&str]) -> Result<Value> {
        let text = self.run(namespace, &[["get", "--output", "json"].as_slice(), arguments].concat())?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// Runs the test program in a pod.
    pub fn exec(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<String> {
        self.run(namespace, &[["exec", pod, "--", "/node-inspector"].as_slice(), words].concat())
    }

    /// Applies objects that belong to no namespace.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.apply_in("default", objects)
    }

    /// Applies objects; tries again for a while, as a new namespace has no service account at first.
    pub fn apply_in(&self, namespace: &str, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        until("kubectl apply", within(60), || {
            programs::run(self.kubectl(namespace).args(["apply", "--filename", "-"]), &list, within(30))?;
            Ok(Look::Done(()))
        })
    }

    /// A namespace for a story's objects.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&[manifest::namespace(name)])
    }

    /// Removes a story's namespace with all that is in it.
    pub fn remove(&self, namespace: &str) -> Result<()> {
        self.run("default", &["delete", "namespace", namespace, "--wait=false"])?;
        until(&format!("the end of namespace {namespace}"), within(120), || {
            let left = self.run("default", &["get", "namespace", namespace, "--ignore-not-found"])?;
            if left.trim().is_empty() {
                return Ok(Look::Done(()));
            }
            Ok(Look::Waiting(states(&self.get(namespace, &["pods"])?)))
        })
    }

    /// Waits until all pods of a selector are Ready, at least `count` of them; returns them.
    pub fn wait_ready(&self, namespace: &str, selector: &str, count: usize) -> Result<Vec<Value>> {
        until(&format!("{count} ready pods in {namespace}"), within(120), || {
            let list = self.get(namespace, &["pods", "--selector", selector])?;
            let mut pods = list["items"].as_array().cloned().unwrap_or_default();
            // Its controller has replaced what a shutdown of the node ended.
            pods.retain(|pod| pod["status"]["phase"] != "Failed" || pod["status"]["reason"] != "Terminated");
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready >= count && ready == pods.len() {
                return Ok(Look::Done(pods));
            }
            Ok(Look::Waiting(states(&list)))
        })
    }

    /// Waits until a pod has ended; returns it.
    pub fn wait_ended(&self, namespace: &str, name: &str) -> Result<Value> {
        until(&format!("the end of pod {name}"), within(90), || {
            let pod = self.get(namespace, &["pod", name])?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            if matches!(phase, "Succeeded" | "Failed") {
                return Ok(Look::Done(pod));
            }
            Ok(Look::Waiting(format!("it is {phase}: {}", pod["status"]["containerStatuses"])))
        })
    }

    /// Leaves what helps to understand a failure in `folder`: consoles, services' logs, pods and events.
    pub fn collect(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for vm in self.nodes() {
            std::fs::write(folder.join(format!("{}-console.log", vm.name)), vm.console().text()?)?;
            for service in SERVICES {
                if let Ok(mut command) = self.cluster.pintle(vm) {
                    let path = folder.join(format!("{}-{service}.log", vm.name));
                    save(command.args(["logs", service]), &path)?;
                }
            }
        }
        for (name, arguments) in [
            ("pods.yaml", ["get", "pods", "--all-namespaces", "--output=yaml"].as_slice()),
            (
                "events.txt",
                ["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"].as_slice(),
            ),
            ("nodes.yaml", ["get", "nodes", "--output=yaml"].as_slice()),
        ] {
            save(self.cluster.kubectl().command().args(arguments), &folder.join(name))?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.cluster.power_cut();
        }
    }
}

fn save(command: &mut Command, path: &Path) -> Result<()> {
    let text = programs::run(command, "", within(15)).unwrap_or_else(|fault| format!("{fault:#}"));
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Whether a pod is Ready and not about to go.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Name, phase and what each pod's first container waits for.
pub fn states(list: &Value) -> String {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let unready = items.iter().filter(|pod| !is_ready(pod)).map(|pod| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        let waits = state["waiting"]["message"].as_str().or_else(|| state["waiting"]["reason"].as_str());
        let phase = pod["status"]["phase"].as_str().unwrap_or("unknown");
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        format!("{name}: {}", waits.unwrap_or(phase))
    });
    let unready: Vec<String> = unready.take(6).collect();
    format!("{} pods; not ready: {}", items.len(), unready.join("; "))
}
