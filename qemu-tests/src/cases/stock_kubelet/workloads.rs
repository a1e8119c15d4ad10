//! A Deployment and a Job, placed by the scheduler.
use anyhow::{Result, ensure};
use qemu_tests::Look;
use serde_json::json;

use super::super::Outcome;
use super::super::cluster::{Stage, manifest};
use super::{script, vm};
use crate::bench::{until, within};

const NAMESPACE: &str = "workloads";

/// The Deployment becomes available and is rolled over; the Job's pods run to their end.
pub fn run(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let mut web = script("web", "exec /agnhost netexec --http-port 8080");
    web["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 2});
    // Without a toleration there is only one node for them.
    let spec = json!({"containers": [web], "terminationGracePeriodSeconds": 1});
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sums"},
        "spec": {"completions": 3, "parallelism": 2, "template": {"spec": {
            "restartPolicy": "Never", "containers": [script("sum", "echo sum=$((6 * 7))")],
        }}},
    });
    stage.apply_in(NAMESPACE, &[manifest::deployment("web", 2, spec), job])?;
    let pods = stage.wait_ready(NAMESPACE, "app=web", 2)?;
    let node = vm(stage)?.name.as_str();
    ensure!(pods.iter().all(|pod| pod["spec"]["nodeName"] == node), "the scheduler chose another node");
    let said = stage.run(NAMESPACE, &["rollout", "status", "deployment/web", "--timeout=300s"])?;
    ensure!(said.contains("successfully rolled out"), "rollout status says {said}");
    until("the job to complete", within(120), || {
        let job = stage.get(NAMESPACE, &["job", "sums"])?;
        let done = job["status"]["succeeded"] == 3 && !job["status"]["completionTime"].is_null();
        Ok(if done { Look::Done(()) } else { Look::Waiting(job["status"].to_string()) })
    })?;
    let logs = stage.run(NAMESPACE, &["logs", "--selector=batch.kubernetes.io/job-name=sums"])?;
    ensure!(logs.lines().filter(|line| *line == "sum=42").count() == 3, "the job's pods wrote {logs:?}");
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}
