//! More CPU and memory for a container that goes on running.
use anyhow::{Context, Result, ensure};
use qemu_tests::Look;
use serde_json::json;

use super::super::Outcome;
use super::super::cluster::{Stage, limits};
use super::{pod, script, vm};
use crate::bench::{until, within};

const NAMESPACE: &str = "resize";
const BEFORE: limits::Settings = ("17", "20000", "67108864");
const AFTER: limits::Settings = ("29", "30000", "100663296");

/// The new limits are in the cgroups of the pod and the container and in the status; it is the same container, never restarted.
pub fn in_place(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let mut container = script("main", "exec /agnhost pause");
    container["resources"] =
        json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
    stage.apply_in(NAMESPACE, &[pod(stage, "grows", json!([container]))?])?;
    let before = stage.wait_ready(NAMESPACE, "app=grows", 1)?.pop().context("the pod")?;
    let uid = before["metadata"]["uid"].as_str().context("the pod's uid")?;
    let id =
        before["status"]["containerStatuses"][0]["containerID"].as_str().context("the container's id")?;
    let cgroup = format!("/kubepods/burstable/pod{uid}/{}", id.rsplit('/').next().unwrap_or(id));
    let inspector = stage.inspector(vm(stage)?)?;
    let is = |settings| -> Result<()> {
        limits::compare(&cgroup, &inspector.json(&["cgroups", uid])?[&cgroup], settings, "max")
    };
    is(BEFORE).context("before the resize")?;
    let wanted =
        json!({"requests": {"cpu": "200m", "memory": "48Mi"}, "limits": {"cpu": "300m", "memory": "96Mi"}});
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": wanted}]}}).to_string();
    stage.run(NAMESPACE, &["patch", "pod", "grows", "--subresource=resize", "--patch", &patch])?;
    let after = until("the container to have its new limits", within(120), || {
        is(AFTER)?;
        let pod = stage.get(NAMESPACE, &["pod", "grows"])?;
        let resources = &pod["status"]["containerStatuses"][0]["resources"];
        let told = *resources == wanted;
        Ok(if told { Look::Done(pod) } else { Look::Waiting(format!("the status says {resources}")) })
    })?;
    let status = &after["status"]["containerStatuses"][0];
    ensure!(status["containerID"] == id && status["restartCount"] == 0, "it was started again: {status}");
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}
