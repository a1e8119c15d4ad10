//! Volumes follow the objects that they show, and tokens are renewed.
use tokio::task::{AbortHandle, Id};

use super::{Desired, Done, Worker};
use crate::backoff::{Nanos, Retry};
use crate::clock::{now, wall};
use crate::pod::decide::{Failure, Operation};
use crate::volumes::PodVolumes;

impl Worker {
    pub(super) fn hold_objects(&self, desired: &Desired) {
        let refs = crate::volumes::object_refs(&desired.pod);
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_else(|| "default".into());
        let keys = |names: std::collections::BTreeSet<String>| -> Vec<(String, String)> {
            names.into_iter().map(|name| (namespace.clone(), name)).collect()
        };
        self.ctx.objects.hold(&self.uid, &keys(refs.config_maps), &keys(refs.secrets));
    }

    /// An object that this pod refers to has changed.
    pub(super) fn objects_changed(&mut self, desired: &Desired) {
        // Volumes that could not be made may be made now.
        if let Some(retry) = self.memory.retries.remove(&Operation::Sandbox)
            && let Some(failure) = &mut self.memory.sandbox_failure
            && failure.retry_at == retry.at
        {
            failure.retry_at = now();
        }
        self.refresh_volumes(desired);
    }

    /// Rewrites the volumes; while that goes on, once more after it, so that what is read last is shown.
    pub(super) fn refresh_volumes(&mut self, desired: &Desired) {
        let releasing = self.memory.released || self.memory.in_flight.contains(&Operation::Release);
        if releasing || self.volumes.is_none() && self.observed.current().is_none() {
            return;
        }
        if self.refresh.running.is_some() {
            self.refresh.again = true;
            return;
        }
        let scene = self.scene(desired);
        let task = self.tasks.spawn(async move { Done::Refreshed(scene.prepare_volumes().await) });
        self.refresh.running = Some(task);
    }

    pub(super) fn refreshed(&mut self, result: Result<PodVolumes, Failure>) {
        match result {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.refresh.retry = None;
            }
            Err(failure) => {
                self.refresh.retry = Some(Retry::after(self.refresh.retry.as_ref(), now(), &failure.message));
            }
        }
        if std::mem::take(&mut self.refresh.again) {
            let desired = self.desired.borrow().clone();
            self.refresh_volumes(&desired);
        }
    }

    /// Volumes that show the pod's own fields follow those that can change while it runs.
    pub(super) fn refresh_fields(&mut self, before: &Desired) {
        let desired = self.desired.borrow().clone();
        if crate::volumes::shows_other_fields(&before.pod, &desired.pod) {
            self.refresh_volumes(&desired);
        }
    }

    /// When to refresh although nothing changed: a token is to be renewed, or the last time failed.
    pub(super) fn refresh_at(&self) -> Option<Nanos> {
        if self.refresh.running.is_some() {
            return None;
        }
        if let Some(retry) = &self.refresh.retry {
            return Some(retry.at);
        }
        let renew_at = self.volumes.as_ref().and_then(|volumes| volumes.renew_at)?;
        let renew_at = Nanos::try_from(renew_at.as_nanosecond()).unwrap_or(Nanos::MAX);
        Some(now() + renew_at.saturating_sub(wall()).max(0))
    }

    pub(super) fn refresh_when_due(&mut self, desired: &Desired) {
        if self.refresh_at().is_some_and(|at| at <= now()) {
            self.refresh_volumes(desired);
        }
    }
}

/// The rewriting of a pod's volumes: one at a time.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    running: Option<AbortHandle>,
    /// Something changed since the one that runs began.
    again: bool,
    retry: Option<Retry>,
}

impl Refresh {
    /// A task has ended, maybe this one.
    pub(super) fn over(&mut self, id: Id) {
        if self.running.as_ref().is_some_and(|task| task.id() == id) {
            self.running = None;
        }
    }

    /// The volumes go.
    pub(super) fn end(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
        (self.again, self.retry) = (false, None);
    }
}
