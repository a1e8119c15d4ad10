//! Prompts kube-proxy to sync.
use anyhow::Result;
use serde_json::json;

use super::Stage;

const SERVICE: &str = "resync";

/// A Service without endpoints. A change of its session affinity's timeout changes no rule and makes every kube-proxy sync.
///
/// In nftables mode kube-proxy flushes the chains of a deleted Service and deletes them in a later sync, which comes with the next change of
/// any Service or its endpoints, or within an hour (`staleChains` in Kubernetes' pkg/proxy/nftables/proxier.go).
pub struct Resync<'a> {
    stage: &'a Stage,
    timeout_seconds: u32,
}

impl<'a> Resync<'a> {
    /// Makes the Service.
    pub fn prepare(stage: &'a Stage) -> Result<Self> {
        let timeout_seconds = 1;
        stage.apply(&[json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE},
            "spec": {"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": affinity(timeout_seconds)},
        })])?;
        Ok(Self { stage, timeout_seconds })
    }

    /// Asks for a sync, which comes within seconds.
    pub fn prompt(&mut self) -> Result<()> {
        self.timeout_seconds += 1;
        let patch = json!({"spec": {"sessionAffinityConfig": affinity(self.timeout_seconds)}}).to_string();
        self.stage.run("default", &["patch", "service", SERVICE, "--patch", &patch]).map(drop)
    }

    /// Removes the Service.
    pub fn end(self) -> Result<()> {
        self.stage.run("default", &["delete", "service", SERVICE]).map(drop)
    }
}

fn affinity(timeout_seconds: u32) -> serde_json::Value {
    json!({"clientIP": {"timeoutSeconds": timeout_seconds}})
}
