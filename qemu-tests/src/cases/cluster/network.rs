//! Pods on different nodes.
use anyhow::{Context, Result, ensure};
use qemu_tests::Look;
use serde_json::Value;

use super::{Stage, manifest};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "reach";

/// From each node's pod to every other node's: by IP, by the Service's IP, by its DNS names, over TCP and UDP.
pub fn reach(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let nodes: Vec<String> = stage.nodes().iter().map(|vm| vm.name.clone()).collect();
    for node in &nodes {
        let on_node = manifest::pod(node, manifest::one(node, &["serve"]));
        stage.apply_in(NAMESPACE, &[on_node, manifest::service(node)])?;
    }
    for node in &nodes {
        stage.wait_ready(NAMESPACE, &format!("app={node}"), 1)?;
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| *to != from || nodes.len() == 1) {
            let pod = stage.get(NAMESPACE, &["pod", to])?;
            let service = stage.get(NAMESPACE, &["service", to])?;
            let address = text(&pod["status"]["podIP"])?;
            let cluster = text(&service["spec"]["clusterIP"])?;
            for url in [
                format!("http://{address}:8080/"),
                format!("http://{cluster}/"),
                format!("http://{to}/"),
                format!("http://{to}.{NAMESPACE}.svc.cluster.local/"),
                format!("udp://{to}.{NAMESPACE}:80/hello"),
            ] {
                // A Service's rules and names come a moment after its pods are ready.
                let answer = until(&format!("{url} from {from}"), within(30), || {
                    stage.exec(NAMESPACE, from, &["fetch", &url]).map(Look::Done)
                })?;
                // Not looked at again: that another pod answers even once is a fault.
                ensure!(answer.starts_with(to.as_str()), "{url} from {from} is answered by {answer:?}");
            }
            let resolved = stage.exec(NAMESPACE, from, &["resolve", to])?;
            ensure!(resolved.trim() == cluster, "{to} resolves to {resolved:?}, its Service is {cluster}");
        }
    }
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("no address")
}
