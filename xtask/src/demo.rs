//! A first workload: a Deployment of the image in the bundle, and its Service.
use std::time::Duration;

use anyhow::Result;
use qemu_tests::{Kubectl, Look, Progress};

const MANIFEST: &str = include_str!("demo.yaml");
const SERVICE_PROXY: &str = "/api/v1/namespaces/default/services/demo:http/proxy/";

/// Deploys the demo and returns its answer through its Service.
///
/// # Errors
/// When it does not become available in time, with the pods' state.
pub fn run(kubectl: &Kubectl, progress: &Progress, patience: u32) -> Result<String> {
    progress.wait("deploying the demo", Duration::from_secs(30) * patience, || {
        Ok(kubectl.apply(MANIFEST).map_or_else(|fault| Look::Waiting(format!("{fault:#}")), Look::Done))
    })?;
    progress.wait("waiting for the demo's pods", Duration::from_secs(60) * patience, || {
        Ok(look(kubectl).unwrap_or_else(|fault| Look::Waiting(format!("{fault:#}"))))
    })?;
    progress.wait("asking the demo through its Service", Duration::from_secs(15) * patience, || {
        Ok(kubectl
            .run(&["get", "--raw", SERVICE_PROXY])
            .map_or_else(|fault| Look::Waiting(format!("{fault:#}")), Look::Done))
    })
}

fn look(kubectl: &Kubectl) -> Result<Look<()>> {
    let deployment = kubectl.get(&["deployment", "demo"])?;
    if deployment["status"]["availableReplicas"].as_u64().unwrap_or(0) >= 2 {
        return Ok(Look::Done(()));
    }
    Ok(Look::Waiting(pod_states(&kubectl.get(&["pods", "-l", "app=demo"])?)))
}

/// What each pod waits for, in a few words.
fn pod_states(pods: &serde_json::Value) -> String {
    let items = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let states: Vec<String> = items
        .iter()
        .map(|pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            let reason = waiting["message"].as_str().or_else(|| waiting["reason"].as_str());
            let unscheduled = pod["status"]["conditions"][0]["message"].as_str();
            let phase = pod["status"]["phase"].as_str().unwrap_or("unknown");
            format!(
                "{}: {}",
                pod["metadata"]["name"].as_str().unwrap_or_default(),
                reason.or(unscheduled).unwrap_or(phase)
            )
        })
        .collect();
    if states.is_empty() {
        "no pod yet: the controller manager has not acted".into()
    } else {
        states.join("; ")
    }
}
