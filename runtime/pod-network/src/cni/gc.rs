//! What belongs to nobody: attachments on record without a pod, which get their DEL, and what plugins alone know of, by GC (section 3, "Garbage-collecting a
//! network").
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::record::Phase;
use super::{Cni, Error, lock, request};

/// Between attempts; doubled up to the second.
const FIRST: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(300);
/// After failed DELs, which may be many and are repeated, GC is not run more often.
const PAUSE: Duration = Duration::from_secs(60);

impl Cni {
    /// Deletes every attachment whose pod is not in `live`, of a life before a reboot or half made, and runs GC (`in_use`: pods are connected by CNI). It
    /// goes on after the call, and until it is done: plugins may need a daemon that is a pod itself.
    pub fn collect(self: &Arc<Self>, live: &BTreeSet<String>, in_use: bool) {
        let mut stale: BTreeSet<String> =
            lock(&self.pods).keys().filter(|id| !live.contains(*id)).cloned().collect();
        if stale.is_empty() && !in_use {
            return;
        }
        let cni = Arc::clone(self);
        tokio::spawn(async move {
            let (mut wait, mut told, mut pending) = (FIRST, String::new(), in_use);
            loop {
                let result = cni.collect_once(&mut stale, &mut pending).await;
                if stale.is_empty() && !pending {
                    return;
                }
                if let Err(error) = result.map_err(|error| error.to_string())
                    && error != told
                {
                    tracing::warn!(error, left = stale.len(), "collect what belongs to no pod; trying again");
                    told = error;
                }
                sleep(wait).await;
                wait = (wait * 2).min(LAST);
            }
        });
    }

    /// One attempt: what is done is taken out of `stale`, and `gc` becomes false.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub(super) async fn collect_once(
        &self,
        stale: &mut BTreeSet<String>,
        gc: &mut bool,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for id in stale.clone() {
            match self.delete_stale(&id).await {
                Ok(()) => drop(stale.remove(&id)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        if *gc {
            match self.gc().await {
                Ok(()) => *gc = false,
                Err(error) => {
                    // Without a usable configuration there was nobody to ask; a plugin that fails is asked again after a failed DEL or a restart.
                    *gc = matches!(error, Error::NoConfig(_) | Error::Config { .. } | Error::NoPlugin { .. });
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    async fn delete_stale(&self, id: &str) -> Result<(), Error> {
        let Some(pod) = self.pod(id) else { return Ok(()) };
        let _gate = self.gate.read().await;
        self.delete(&mut *pod.lock().await).await
    }

    /// Runs GC after a failed DEL, unless it has just been done.
    pub(super) async fn collect_after_failure(&self) {
        if lock(&self.collected).is_some_and(|when| when.elapsed() < PAUSE) {
            return;
        }
        if let Err(error) = self.gc().await {
            tracing::warn!(%error, "have CNI plugins collect what belongs to no pod");
        }
    }

    /// Tells every plugin of the configuration in force which attachments are valid. All are asked, whichever fails.
    ///
    /// # Errors
    /// Without a usable configuration, and the first plugin's failure.
    pub(super) async fn gc(&self) -> Result<(), Error> {
        let network = self.load()?;
        if network.disable_gc || !network.version.has_gc_and_status() {
            return Ok(());
        }
        let _alone = self.gate.write().await;
        *lock(&self.collected) = Some(Instant::now());
        let valid = self.valid(&network.name);
        let mut result = Ok(());
        for plugin in &network.plugins {
            let input = request::collection(&network, plugin, &valid);
            let run = self.run("GC", &network, plugin, &[], &input, self.deadline).await;
            result = result.and(run.map(drop));
        }
        result
    }

    /// Attachments to a network that shall stay, as (container id, interface). Nobody holds a pod's lock while the gate is closed.
    fn valid(&self, network: &str) -> Vec<(String, String)> {
        let pods = lock(&self.pods);
        let attachments = pods.values().filter_map(|pod| pod.try_lock().ok()?.clone());
        attachments
            .filter(|attachment| attachment.network.name == network && attachment.phase == Phase::Added)
            .map(|attachment| (attachment.container_id, attachment.interface))
            .collect()
    }
}
