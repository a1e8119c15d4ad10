//! What a deleted pod leaves behind: nothing.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use qemu_tests::{Look, Vm};
use serde_json::{Value, json};

use super::resync::Resync;
use super::{Stage, manifest, processes};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "thirty";
const PODS: usize = 30;

/// Thirty pods with volumes, a Service and a host port become Ready; deleted, every node is as before.
pub fn thirty(stage: &mut Stage) -> Result<Outcome> {
    let stage = &*stage;
    let mut kube_proxy = Resync::prepare(stage)?;
    // A moment of rest: what the story before removed may still be on its way out.
    let before = settled(stage)?;
    let mut names = containers(stage)?;
    stage.namespace(NAMESPACE)?;
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "text"}, "data": {"a": "b"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"c": "d"}});
    let first = &stage.nodes().last().context("a node")?.name;
    let mut with_port = manifest::one(first, &["serve"]);
    with_port["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": 18080}]);
    let deployment = manifest::deployment("web", PODS, spec());
    stage.apply_in(
        NAMESPACE,
        &[config, secret, manifest::service("web"), deployment, manifest::pod("port", with_port)],
    )?;
    stage.wait_ready(NAMESPACE, "app=web", PODS)?;
    stage.wait_ready(NAMESPACE, "app=port", 1)?;
    stage.exec(NAMESPACE, "port", &["fetch", "http://web/"])?;
    for vm in stage.nodes() {
        processes::only_known(stage, vm)?;
    }
    stage.run(NAMESPACE, &["delete", "deployment,service,configmap,secret,pod", "--all", "--wait=false"])?;
    stage.remove(NAMESPACE)?;
    for (vm, before) in stage.nodes().iter().zip(&before) {
        let inspector = stage.inspector(vm)?;
        until(&format!("{} to be as before the pods", vm.name), within(60), || {
            names.extend(containers(stage)?);
            let difference = difference(before, &inspector.json(&["snapshot"])?, &names);
            if difference.is_empty() {
                return Ok(Look::Done(()));
            }
            if difference.iter().any(|thing| thing.starts_with("new: rules")) {
                kube_proxy.prompt()?;
            }
            Ok(Look::Waiting(difference.join("; ")))
        })?;
    }
    kube_proxy.end()?;
    Ok(Outcome::Passed)
}

fn spec() -> Value {
    let mut spec = manifest::pod_spec(json!([manifest::container("main", &["serve"])]));
    spec["containers"][0]["resources"] =
        json!({"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "32Mi"}});
    spec["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 5});
    spec["volumes"] = json!([
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "text", "configMap": {"name": "text"}},
        {"name": "hidden", "secret": {"secretName": "hidden"}},
    ]);
    spec["containers"][0]["volumeMounts"] = json!([
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "text", "mountPath": "/text"},
        {"name": "hidden", "mountPath": "/hidden"},
    ]);
    spec
}

/// A snapshot of each node that did not change from one look to the next.
fn settled(stage: &Stage) -> Result<Vec<Value>> {
    stage.nodes().iter().map(|vm| settled_on(stage, vm)).collect()
}

/// A snapshot of a node that did not change from one look to the next.
pub fn settled_on(stage: &Stage, vm: &Vm) -> Result<Value> {
    let inspector = stage.inspector(vm)?;
    let mut last = inspector.json(&["snapshot"])?;
    until(&format!("{} to be quiet", vm.name), within(60), || {
        let next = inspector.json(&["snapshot"])?;
        let difference = difference(&last, &next, &BTreeMap::new());
        last = next;
        Ok(if difference.is_empty() {
            Look::Done(last.clone())
        } else {
            Look::Waiting(difference.join("; "))
        })
    })
}

/// Ids of the containers that belong to pods that are still there, with what they are for: one that was started again is no trace.
pub fn containers(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let list = stage.get("default", &["pods", "--all-namespaces"])?;
    let mut names = BTreeMap::new();
    for pod in list["items"].as_array().context("pods")? {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let last = &status["lastState"]["terminated"]["containerID"];
            let name = format!("{} of {}", status["name"], pod["metadata"]["name"]);
            for id in [&status["containerID"], last].into_iter().filter_map(Value::as_str) {
                let id = id.rsplit('/').next().unwrap_or(id);
                names.insert(id.to_owned(), name.clone());
            }
        }
    }
    Ok(names)
}

/// Everything that is in one snapshot and not in the other, each with where it is. The ids among `names` count as the same when they mean the
/// same.
pub fn difference(before: &Value, after: &Value, names: &BTreeMap<String, String>) -> Vec<String> {
    let named = |snapshot| -> BTreeSet<String> {
        let named = |thing: String| names.iter().fold(thing, |thing, (id, name)| thing.replace(id, name));
        things(snapshot).into_iter().map(named).collect()
    };
    let (before, after) = (named(before), named(after));
    let more = after.difference(&before).map(|thing| format!("new: {thing}"));
    // Logs of what ended before are collected in their own time, and kube-proxy's nft runs only for a moment.
    let passing = ["file /var/log/", "process \"/usr/sbin/nft "];
    let less =
        before.difference(&after).filter(|thing| !passing.iter().any(|start| thing.starts_with(start)));
    let less = less.map(|thing| format!("gone: {thing}"));
    more.chain(less).collect()
}

/// A snapshot as a set of words. Kernel threads come and go by themselves; other processes are told by what they are, not by pid.
fn things(snapshot: &Value) -> BTreeSet<String> {
    let mut things = BTreeSet::new();
    for kind in ["mounts", "networkNamespaces", "cgroups", "links", "rules"] {
        for thing in snapshot[kind].as_array().into_iter().flatten().filter_map(Value::as_str) {
            things.insert(format!("{kind} {thing}"));
        }
    }
    for (folder, names) in snapshot["folders"].as_object().into_iter().flatten() {
        for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
            things.insert(format!("file {folder}/{name}"));
        }
    }
    let processes = snapshot["processes"].as_array().into_iter().flatten();
    for process in processes.filter(|process| process["kernel"] != true) {
        things.insert(format!("process {} in {}", process["command"], process["cgroup"]));
    }
    things
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_came_and_went() {
        let before = json!({"links": ["lo", "eth0"], "folders": {"/run": ["a"]}, "processes": [{"kernel": true, "command": "kworker", "cgroup": "/"}]});
        let after = json!({"links": ["lo", "veth1"], "folders": {"/run": ["a"]}, "processes": []});
        let nobody = BTreeMap::new();
        assert_eq!(difference(&before, &after, &nobody), ["new: links veth1", "gone: links eth0"]);
        assert!(difference(&before, &before, &nobody).is_empty());
        let syncing =
            json!({"processes": [{"kernel": false, "command": "/usr/sbin/nft -f -", "cgroup": "/kubepods"}]});
        assert!(difference(&syncing, &json!({}), &nobody).is_empty());
        assert_eq!(difference(&json!({}), &syncing, &nobody).len(), 1);
    }

    #[test]
    fn a_container_that_was_started_again_is_no_trace() {
        let names =
            [("1a", "etcd"), ("2b", "etcd"), ("3c", "web")].map(|(id, name)| (id.into(), name.into())).into();
        let before = json!({"cgroups": ["/pods/p/1a"]});
        assert!(difference(&before, &json!({"cgroups": ["/pods/p/1a", "/pods/p/2b"]}), &names).is_empty());
        assert_eq!(difference(&before, &json!({"cgroups": ["/pods/p/3c"]}), &names).len(), 2);
    }
}
