//! Every node that takes pods pulls the test images before the specs begin: their deadlines are not meant for a download.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use qemu_tests::{Kubectl, Look, Progress};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(300);
const ACCEPTED: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "prepull";

/// Pulls the images on every node that takes pods.
///
/// # Errors
/// When a node does not have them all in time, with what is missing.
pub fn run(kubectl: &Kubectl, images: &[String], progress: &Progress, patience: u32) -> Result<()> {
    let manifest = manifest(images).to_string();
    // An API server that has just begun may be too busy to answer in time.
    progress.wait("asking every node for the test images", ACCEPTED * patience, || {
        Ok(kubectl.apply(&manifest).map_or_else(|fault| Look::Waiting(format!("{fault:#}")), Look::Done))
    })?;
    progress.wait("pulling the test images on every node", DEADLINE * patience, || {
        let nodes = match kubectl.get(&["nodes"]) {
            Ok(nodes) => nodes,
            Err(fault) => return Ok(Look::Waiting(format!("{fault:#}"))),
        };
        let missing = missing(&nodes, images);
        Ok(missing.first().map_or(Look::Done(()), |first| {
            Look::Waiting(format!("{first}, and {} more", missing.len() - 1))
        }))
    })?;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"]).map(drop)
}

/// A pod on each node with a container of each image. What they run does not matter.
fn manifest(images: &[String]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            json!({"name": format!("image-{number}"), "image": image, "command": ["/pulled"]})
        })
        .collect();
    let labels = json!({"app": NAMESPACE});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": NAMESPACE, "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": containers, "terminationGracePeriodSeconds": 0},
            }},
        },
    ]})
}

/// Each node with an image that its status does not list; a node that keeps pods away needs none.
fn missing(nodes: &Value, images: &[String]) -> Vec<String> {
    let mut missing = Vec::new();
    let nodes = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    for node in nodes.iter().filter(|node| takes_pods(node)) {
        let there: BTreeSet<&str> = node["status"]["images"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|image| image["names"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let absent = images.iter().filter(|image| !there.contains(image.as_str()));
        missing.extend(absent.map(|image| format!("{name} lacks {image}")));
    }
    missing
}

/// Whether pods without a toleration come to the node.
fn takes_pods(node: &Value) -> bool {
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    taints.iter().all(|taint| taint["effect"] == "PreferNoSchedule")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_takes_pods_and_lacks_an_image_is_named() {
        let nodes = json!({"items": [
            {"metadata": {"name": "a"}, "status": {"images": [{"names": ["r/x:1", "r/x@sha256:0"]}, {"names": ["r/y:1"]}]}},
            {"metadata": {"name": "b"}, "status": {"images": [{"names": ["r/x:1"]}]}},
            {"metadata": {"name": "c"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}},
        ]});
        assert_eq!(missing(&nodes, &["r/x:1".into(), "r/y:1".into()]), ["b lacks r/y:1"]);
    }
}
