//! The status: computed, shown to the rest of the agent, posted to the API server.
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::{Desired, Done, How, Worker, within};
use crate::allocation;
use crate::backoff::Nanos;
use crate::clock::{now, wall};
use crate::events::Kind as Severity;
use crate::pod::decide::{Decision, Operation};
use crate::pod::status::{self, Facts};
use crate::pods::PodEntry;
use crate::status_patch::{status_patch, undone};

impl Worker {
    /// Computes the status, shows it, and tells the API server of it. Answers when to come again.
    pub(super) fn tell(&mut self, desired: &Desired, decision: &Decision) -> Option<Nanos> {
        let host_ips: Vec<String> = self.ctx.now().node_ips().iter().map(ToString::to_string).collect();
        self.take_over_conditions(desired);
        let facts = Facts {
            observed: &self.observed,
            memory: &self.memory,
            decision,
            previous: &self.status,
            host_ips: &host_ips,
            qos_class: crate::cgroup::qos_class(&desired.pod).as_str(),
            ended: self.ended.as_ref().filter(|e| e.how != How::Paused).map(|e| status::End {
                reason: &e.reason,
                message: &e.message,
                disrupted: e.how == How::Disrupted,
            }),
            pending: desired.pending.as_ref().map(|p| (p.reason, p.message.as_str())),
            granted: self.parts.allocations.get(&self.uid).and_then(|a| a.generation),
            now: wall(),
        };
        let resized = status::condition(&self.status, status::RESIZING).is_some();
        self.status = status::compute(&desired.pod, &facts);
        if resized && status::condition(&self.status, status::RESIZING).is_none() {
            let message = allocation::message("Pod resize completed", &desired.pod, "");
            self.ctx.events.pod(&desired.pod, Severity::Normal, "ResizeCompleted", message);
        }
        let mut pod = (*desired.pod).clone();
        pod.status = Some(self.status.clone());
        let mut containers = BTreeMap::new();
        for container in &self.observed.containers {
            containers.entry(container.name.clone()).or_insert_with(|| container.id.clone());
        }
        let sandbox = self.observed.sandboxes.first().map(|s| s.id.clone());
        let starting =
            self.memory.in_flight.iter().any(|o| matches!(o, Operation::Start(_) | Operation::Sandbox));
        let post = self.post(desired);
        self.ctx.pods.put(PodEntry {
            pod: Arc::new(pod),
            source: desired.source,
            sandbox,
            containers,
            stopped: self.last_grace.is_some() && !starting && !self.observed.anything_runs(),
            told: self.told,
        });
        let deadline = self.deadline(desired);
        self.remember_static(desired);
        let refresh = self.refresh_at();
        [post, self.delete(desired, decision), deadline, refresh].into_iter().flatten().min()
    }

    /// Conditions that others write come from the API server.
    pub(super) fn take_over_conditions(&mut self, desired: &Desired) {
        let Some(api) = desired.api.as_ref().and_then(|p| p.status.as_ref()) else { return };
        let others = api.conditions.iter().flatten().filter(|c| !status::owns_condition(&c.type_)).cloned();
        let mut conditions: Vec<_> = self
            .status
            .conditions
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|c| {
                let untold = c.type_ == status::DISRUPTION && status::condition(api, &c.type_).is_none();
                status::owns_condition(&c.type_) || untold
            })
            .collect();
        conditions.extend(others);
        self.status.conditions = Some(conditions);
    }

    pub(super) fn post(&mut self, desired: &Desired) -> Option<Nanos> {
        self.told = desired.api.is_none();
        let api_pod = desired.api.clone()?;
        let client = self.ctx.api.client()?;
        if self.posting {
            return None;
        }
        // A mirror pod that was made anew knows nothing yet.
        if self.posted_to != api_pod.metadata.uid {
            self.posted_to.clone_from(&api_pod.metadata.uid);
            self.posted = None;
            self.answered = None;
        }
        let told = self.posted.as_ref().zip(self.answered.as_ref());
        let base = told
            .and_then(|(told, answered)| undone(told, answered, &api_pod, status::owns_condition))
            .or_else(|| self.posted.clone())
            .or_else(|| api_pod.status.clone())
            .unwrap_or_default();
        let uid = api_pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(patch) = status_patch(uid, &base, &self.status) else {
            self.told = true;
            return None;
        };
        if self.post_after > now() {
            return Some(self.post_after);
        }
        self.posting = true;
        let namespace = api_pod.metadata.namespace.clone().unwrap_or_default();
        let name = api_pod.metadata.name.clone().unwrap_or_default();
        let status = self.status.clone();
        self.tasks.spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let patched = pods.patch_status(&name, &params, &patch);
            Done::Posted(status, within(patched).await.map(Box::new))
        });
        None
    }
}
