//! ADD: the plugins in their order, each with the result of the one before (section 3, "Adding an attachment").
use std::sync::Arc;

use super::record::{Attachment, Phase};
use super::result::AddResult;
use super::{Cni, Error, Failure, INTERFACE, Pod, arguments, failed, lock, request};
use crate::{PodAddresses, PodRequest};

impl Cni {
    /// Connects a pod to the network of the configuration in force. When it fails, what was done is undone; what cannot be undone stays on record for
    /// [`Cni::teardown`].
    ///
    /// # Errors
    /// Without a configuration or a plugin, and when a plugin fails.
    pub async fn setup(&self, pod: &PodRequest) -> Result<PodAddresses, Error> {
        let attachment = self.plan(pod)?;
        let id = attachment.container_id.clone();
        let _gate = self.gate.read().await;
        let entry: Arc<Pod> = Arc::default();
        let mut slot = entry.lock().await;
        {
            let mut pods = lock(&self.pods);
            if pods.contains_key(&id) {
                return Err(Error::Connected(id));
            }
            pods.insert(id, Arc::clone(&entry));
        }
        let attachment = slot.insert(attachment);
        let result = match self.record(attachment, true) {
            Ok(()) => self.add(attachment).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result
            && let Err(second) = self.delete(&mut slot).await
        {
            let id = &pod.sandbox_id;
            tracing::warn!(sandbox = id, %second, "undo what CNI plugins did before one failed: {error}");
        }
        result
    }

    /// Everything that plugins will be told, as it goes on record.
    fn plan(&self, pod: &PodRequest) -> Result<Attachment, Error> {
        let id = &pod.sandbox_id;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(plain) || id.len() > 128 {
            return Err(Error::BadId(id.clone()));
        }
        let network = self.load()?;
        for plugin in &network.plugins {
            self.find(&network, plugin)?;
        }
        let ranges = lock(&self.ranges).clone();
        Ok(Attachment {
            phase: Phase::Adding,
            container_id: id.clone(),
            interface: INTERFACE.into(),
            netns: pod.netns.clone(),
            arguments: arguments::environment(pod)?,
            capabilities: arguments::capabilities(pod, &ranges)?,
            network,
            result: None,
        })
    }

    async fn add(&self, attachment: &mut Attachment) -> Result<PodAddresses, Error> {
        let network = attachment.network.clone();
        let mut addresses = Vec::new();
        for plugin in &network.plugins {
            let input =
                request::attachment(&network, plugin, &attachment.capabilities, attachment.result.as_ref());
            let output = self.run_for("ADD", attachment, plugin, &input).await?;
            let broken = |fault| failed("ADD", &network, plugin, Failure::Result(fault));
            let result = AddResult::parse(&output, network.version).map_err(broken)?;
            addresses = result.addresses(&attachment.interface).map_err(broken)?;
            // Should a later plugin fail, DEL has at least this result to go by.
            attachment.result = Some(result);
            self.record(attachment, false)?;
        }
        if addresses.is_empty() {
            return Err(Error::NoAddress(network.name));
        }
        attachment.phase = Phase::Added;
        self.record(attachment, true)?;
        Ok(PodAddresses { ips: addresses })
    }
}
