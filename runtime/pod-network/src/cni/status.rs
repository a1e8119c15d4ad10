//! STATUS: whether the network can take pods (section 2, "STATUS").
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::config::NetworkConfig;
use super::{Cni, Error, Failure, failed, lock, request};

/// Plugins that were ready are believed for so long: whoever asks does so every few seconds, and a process for each plugin is dear.
const BELIEVED: Duration = Duration::from_secs(30);
/// For all plugins together; CRI's clients wait little longer for a status.
const DEADLINE: Duration = Duration::from_secs(20);

impl Cni {
    /// Whether there is a usable configuration, its plugins are installed, and (from 1.1.0 on) say that they are ready.
    ///
    /// # Errors
    /// The first reason why not.
    pub async fn ready(&self) -> Result<(), Error> {
        let network = self.load()?;
        for plugin in &network.plugins {
            self.find(&network, plugin)?;
            if plugin.wants("ipRanges") && lock(&self.ranges).is_empty() {
                return Err(Error::NoRange(network.name));
            }
        }
        if network.version.has_gc_and_status() { self.status(network).await } else { Ok(()) }
    }

    async fn status(&self, network: NetworkConfig) -> Result<(), Error> {
        let mut ready = self.ready.lock().await;
        if ready.as_ref().is_some_and(|(known, since)| *known == network && since.elapsed() < BELIEVED) {
            return Ok(());
        }
        *ready = None;
        let end = Instant::now() + DEADLINE;
        for plugin in &network.plugins {
            let input = request::status(&network, plugin);
            let left = end.saturating_duration_since(Instant::now());
            let asked = self.run("STATUS", &network, plugin, &[], &input, DEADLINE);
            timeout(left, asked)
                .await
                .unwrap_or_else(|_| Err(failed("STATUS", &network, plugin, Failure::Deadline(DEADLINE))))?;
        }
        *ready = Some((network, Instant::now()));
        Ok(())
    }
}
