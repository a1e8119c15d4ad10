//! DEL: the plugins in reverse order, with what ADD was told and what came of it (section 3, "Deleting an attachment").
use super::record::{Attachment, Phase};
use super::{Cni, Error, lock, request};

impl Cni {
    /// Disconnects a pod. A pod that is not known is no error.
    ///
    /// # Errors
    /// When a plugin fails: the record stays and a further call begins again, as plugins take any number of DELs.
    pub async fn teardown(&self, container_id: &str) -> Result<(), Error> {
        let Some(pod) = self.pod(container_id) else { return Ok(()) };
        let result = {
            let _gate = self.gate.read().await;
            self.delete(&mut *pod.lock().await).await
        };
        if result.is_err() {
            self.collect_after_failure().await;
        }
        result
    }

    /// Deletes the attachment in `slot`, from record last. Whoever calls holds the gate.
    pub(super) async fn delete(&self, slot: &mut Option<Attachment>) -> Result<(), Error> {
        let Some(attachment) = slot else { return Ok(()) };
        if attachment.phase != Phase::Deleting {
            attachment.phase = Phase::Deleting;
            // A full disk is no reason to keep a pod's network.
            if let Err(error) = self.record(attachment, false) {
                tracing::warn!(%error, "go on without a record");
            }
        }
        let network = &attachment.network;
        let previous = attachment.result.as_ref().filter(|_| network.version.deletes_with_result());
        for plugin in network.plugins.iter().rev() {
            let input = request::attachment(network, plugin, &attachment.capabilities, previous);
            self.run_for("DEL", attachment, plugin, &input).await?;
        }
        let id = attachment.container_id.clone();
        self.records
            .remove(&id)
            .map_err(|error| Error::Io(format!("forget what CNI plugins did for {id}"), error))?;
        *slot = None;
        lock(&self.pods).remove(&id);
        Ok(())
    }
}
