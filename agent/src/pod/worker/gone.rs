//! The end of a pod: deleted from the API server, its remains removed from the runtime.
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::{Desired, Done, Worker, within};
use crate::backoff::Nanos;
use crate::clock::now;
use crate::pod::decide::Decision;
use crate::pods::Source;

impl Worker {
    /// A deleted pod leaves the API server when nothing of it runs and its last status is told.
    pub(super) fn delete(&mut self, desired: &Desired, decision: &Decision) -> Option<Nanos> {
        let deleted = desired.pod.metadata.deletion_timestamp.is_some();
        let told = !self.posting && self.posted.as_ref().is_none_or(|posted| *posted == self.status);
        if desired.source != Source::Api
            || !deleted
            || !decision.gone
            || self.deleting
            || !told
            || desired.removed
        {
            return None;
        }
        if self.delete_after > now() {
            return Some(self.delete_after);
        }
        let client = self.ctx.api.client()?;
        self.deleting = true;
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_default();
        let name = desired.pod.metadata.name.clone().unwrap_or_default();
        let uid = self.uid.clone();
        self.tasks.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..Default::default()
            };
            let result = match within(pods.delete(&name, &params)).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
                other => other.map(drop),
            };
            Done::Deleted(result)
        });
        None
    }

    pub(super) fn is_over(&self, desired: &Desired, decision: &Decision) -> bool {
        desired.removed && decision.gone && self.tasks.is_empty() && self.nothing_left()
    }

    /// The pod's remains in the runtime go with its task.
    pub(super) fn nothing_left(&self) -> bool {
        let cri = self.ctx.cri.clone();
        let sandboxes: Vec<String> = self.observed.sandboxes.iter().map(|s| s.id.clone()).collect();
        let containers: Vec<String> = self.observed.containers.iter().map(|c| c.id.clone()).collect();
        let logs = crate::pod::convert::log_directory(&self.desired.borrow().pod);
        tokio::spawn(async move {
            for id in containers {
                if let Err(error) = cri.remove_container(&id).await {
                    tracing::debug!("remove container {id}: {error}");
                }
            }
            for id in sandboxes {
                if let Err(error) = cri.remove_pod_sandbox(&id).await {
                    tracing::debug!("remove sandbox {id}: {error}");
                }
            }
            if let Err(error) = tokio::fs::remove_dir_all(&logs).await {
                tracing::debug!("remove {logs}: {error}");
            }
        });
        true
    }
}
