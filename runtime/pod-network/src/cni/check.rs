//! CHECK: whether a pod is still connected as ADD left it (section 3, "Checking an attachment").
use serde_json::{Value, json};

use super::record::{Attachment, Phase};
use super::{Cni, Error, request};

impl Cni {
    /// What is on record of a pod, and what its plugins say to CHECK: `ok`, or why not.
    pub async fn inspect(&self, container_id: &str) -> Option<Value> {
        let pod = self.pod(container_id)?;
        let _gate = self.gate.read().await;
        let slot = pod.lock().await;
        let attachment = slot.as_ref()?;
        let network = &attachment.network;
        let check = match skipped(attachment) {
            Some(reason) => reason.into(),
            None => self.check(attachment).await.map_or_else(|error| error.to_string(), |()| "ok".into()),
        };
        let plugins: Vec<&str> = network.plugins.iter().map(|plugin| plugin.program.as_str()).collect();
        Some(json!({
            "network": network.name, "cniVersion": network.version.name(), "plugins": plugins, "check": check,
            "result": attachment.result,
        }))
    }

    async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let network = &attachment.network;
        for plugin in &network.plugins {
            let input =
                request::attachment(network, plugin, &attachment.capabilities, attachment.result.as_ref());
            self.run_for("CHECK", attachment, plugin, &input).await?;
        }
        Ok(())
    }
}

/// Why there is nothing to ask plugins.
fn skipped(attachment: &Attachment) -> Option<&'static str> {
    if attachment.phase != Phase::Added {
        return Some("not done: the pod is not connected");
    }
    if attachment.network.disable_check {
        return Some("not done: the configuration says disableCheck");
    }
    (!attachment.network.version.has_check()).then_some("not done: the configuration is older than 0.4.0")
}
