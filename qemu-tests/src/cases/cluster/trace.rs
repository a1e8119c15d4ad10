//! What a deleted pod leaves behind: nothing.
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use qemu_tests::{Look, Vm};
use serde_json::{Value, json};

use super::{Stage, manifest, processes};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "thirty";
const PODS: usize = 30;

/// Thirty pods with volumes, a Service and a host port become Ready; deleted, every node is as before.
pub fn thirty(stage: &mut Stage) -> Result<Outcome> {
    // A moment of rest: what the story before removed may still be on its way out.
    let before = settled(stage)?;
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
            let difference = difference(before, &inspector.json(&["snapshot"])?);
            if difference.is_empty() {
                return Ok(Look::Done(()));
            }
            Ok(Look::Waiting(difference.join("; ")))
        })?;
    }
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
    let look = |vm: &Vm| -> Result<Value> {
        let inspector = stage.inspector(vm)?;
        let mut last = inspector.json(&["snapshot"])?;
        until(&format!("{} to be quiet", vm.name), within(60), || {
            let next = inspector.json(&["snapshot"])?;
            let difference = difference(&last, &next);
            last = next;
            Ok(if difference.is_empty() {
                Look::Done(last.clone())
            } else {
                Look::Waiting(difference.join("; "))
            })
        })
    };
    stage.nodes().iter().map(look).collect()
}

/// Everything that is in one snapshot and not in the other, each with where it is.
pub fn difference(before: &Value, after: &Value) -> Vec<String> {
    let (before, after) = (things(before), things(after));
    let more = after.difference(&before).map(|thing| format!("new: {thing}"));
    let less = before.difference(&after).map(|thing| format!("gone: {thing}"));
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
        assert_eq!(difference(&before, &after), ["new: links veth1", "gone: links eth0"]);
        assert!(difference(&before, &before).is_empty());
    }
}
