//! Volumes follow the objects that they show, and tokens are renewed.
use super::{Desired, Done, Worker};

impl Worker {
    pub(super) fn hold_objects(&self, desired: &Desired) {
        let refs = crate::volumes::object_refs(&desired.pod);
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_else(|| "default".into());
        let keys = |names: std::collections::BTreeSet<String>| -> Vec<(String, String)> {
            names.into_iter().map(|name| (namespace.clone(), name)).collect()
        };
        self.ctx.objects.hold(&self.uid, &keys(refs.config_maps), &keys(refs.secrets));
    }

    pub(super) fn refresh_volumes(&mut self, desired: &Desired) {
        if self.volumes.is_none() && self.observed.current().is_none() {
            return;
        }
        let scene = self.scene(desired);
        self.tasks.spawn(async move { Done::Refreshed(scene.prepare_volumes().await.ok()) });
    }

    /// Volumes that show the pod's own fields follow those that can change while it runs.
    pub(super) fn refresh_fields(&mut self, before: &Desired) {
        let desired = self.desired.borrow().clone();
        if crate::volumes::shows_other_fields(&before.pod, &desired.pod) {
            self.refresh_volumes(&desired);
        }
    }

    pub(super) fn renew_tokens(&mut self, desired: &Desired) {
        let due =
            self.volumes.as_ref().and_then(|v| v.renew_at).is_some_and(|at| at <= jiff::Timestamp::now());
        if due {
            self.refresh_volumes(desired);
        }
    }
}
