//! A first workload: a Deployment of the image in the bundle, and its Service.
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::{Kubectl, Look, Progress};

const MANIFEST: &str = include_str!("demo.yaml");
const SERVICE_PROXY: &str = "/api/v1/namespaces/default/services/demo:http/proxy/";

/// Deploys the demo and returns its answer through its Service.
///
/// # Errors
/// When it does not become available in time, with the pods' state.
pub fn run(kubectl: &Kubectl, progress: &Progress, patience: u32) -> Result<String> {
    progress.wait("deploying the demo", Duration::from_secs(30) * patience, || {
        Ok(apply(kubectl).map_or_else(|fault| Look::Waiting(format!("{fault:#}")), Look::Done))
    })?;
    progress.wait("waiting for the demo's pods", Duration::from_secs(60) * patience, || {
        let deployment = kubectl.get(&["deployment", "demo"])?;
        let available = deployment["status"]["availableReplicas"].as_u64().unwrap_or(0);
        if available >= 2 {
            return Ok(Look::Done(()));
        }
        let pods = kubectl.get(&["pods", "-l", "app=demo"])?;
        Ok(Look::Waiting(pod_states(&pods)))
    })?;
    progress.wait("asking the demo through its Service", Duration::from_secs(15) * patience, || {
        Ok(kubectl
            .run(&["get", "--raw", SERVICE_PROXY])
            .map_or_else(|fault| Look::Waiting(format!("{fault:#}")), Look::Done))
    })
}

fn apply(kubectl: &Kubectl) -> Result<()> {
    let mut child = kubectl
        .command()
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run kubectl")?;
    child.stdin.take().context("kubectl's input")?.write_all(MANIFEST.as_bytes())?;
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "kubectl apply failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
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
