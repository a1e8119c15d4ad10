//! Granting resizes: a pod's spec may ask for other resources at any time, and gets them when the node has them.
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Manager;
use crate::admission;
use crate::allocation::{self, Wish};
use crate::events::Kind;
use crate::pod::status;
use crate::pod::worker::Pending;
use crate::spec;

impl Manager {
    /// Looks at all pods that ask for what they do not have, and grants what fits beside the others.
    pub(super) fn grant_resizes(&mut self, api: Option<&BTreeMap<String, Arc<Pod>>>) {
        let allocations = self.parts.allocations.clone();
        let live = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && admission::is_active(pod);
        let asking: Vec<(Arc<Pod>, Arc<Pod>)> = api
            .into_iter()
            .flat_map(BTreeMap::iter)
            .filter(|(_, pod)| !spec::is_mirror(pod) && live(pod))
            .filter_map(|(uid, pod)| Some((pod.clone(), allocations.get(uid)?.apply(pod))))
            .filter(|(pod, granted)| !Arc::ptr_eq(pod, granted))
            .collect();
        let is_asking = |uid: &str| asking.iter().any(|(pod, _)| pod.metadata.uid.as_deref() == Some(uid));
        self.pending.retain(|uid, _| is_asking(uid));
        let since = |pod: &Pod| {
            let condition = status::condition(pod.status.as_ref()?, "PodResizePending")?;
            Some(condition.last_transition_time.as_ref()?.0.as_second())
        };
        let mut wishes: Vec<Wish<'_>> =
            asking.iter().map(|(pod, granted)| Wish { pod, granted, since: since(pod) }).collect();
        allocation::sort(&mut wishes);
        for wish in wishes {
            self.grant_resize(wish.pod);
        }
    }

    fn grant_resize(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut others = self.beside();
        others.remove(&uid);
        let allocations = &self.parts.allocations;
        let others: Vec<&Pod> = others.values().map(|pod| &**pod).collect();
        match admission::shortage(pod, &others, &self.parts.node_allocatable()) {
            None => {
                allocations.update(&uid, |allocation| allocation.grant(pod));
                self.pending.remove(&uid);
                let message = allocation::message("Pod resize started", pod, "");
                self.ctx.events.pod(pod, Kind::Normal, "ResizeStarted", message);
            }
            Some(shortage) => {
                let pending = Pending { reason: "Deferred", message: shortage.message };
                if self.pending.get(&uid) != Some(&pending) {
                    let message = allocation::message("Pod resize Deferred", pod, &pending.message);
                    self.ctx.events.pod(pod, Kind::Warning, "ResizeDeferred", message);
                }
                self.pending.insert(uid, pending);
            }
        }
    }
}
