//! Probes of running containers: which there are, and what they said.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::{Desired, Worker};
use crate::pod::observed::State;
use crate::pod::status;
use crate::probe;
use crate::spec;
use crate::spec::Kind;

/// What the probes of a pod said last and its task has not heard yet: at most one result of each probe, so
/// that none is lost however slow the task is.
#[derive(Debug, Default)]
pub struct Results {
    latest: Mutex<BTreeMap<(String, probe::Kind), bool>>,
    told: Notify,
}

impl Results {
    /// Tells the pod's task.
    pub fn put(&self, changed: probe::Changed) {
        let key = (changed.container_id, changed.kind);
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).insert(key, changed.healthy);
        self.told.notify_one();
    }

    /// Returns when there is something.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    fn take(&self) -> BTreeMap<(String, probe::Kind), bool> {
        std::mem::take(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Worker {
    pub(super) fn probed(&mut self) {
        for ((container, kind), healthy) in self.probes.take() {
            let entry = self.memory.probes.entry(container).or_default();
            match kind {
                probe::Kind::Startup => entry.startup = Some(healthy),
                probe::Kind::Liveness => entry.liveness = Some(healthy),
                probe::Kind::Readiness => entry.readiness = Some(healthy),
            }
        }
    }

    pub(super) fn watch_probes(&mut self, desired: &Desired) {
        let pod_ip = self.scene(desired).pod_ips.first().cloned().unwrap_or_default();
        let mut running = BTreeMap::new();
        let stopping = self.last_grace.is_some();
        for container in self.observed.containers.iter().filter(|c| c.state == State::Running && !stopping) {
            let Some((kind, spec)) = spec::find(&desired.pod, &container.name) else { continue };
            let has = spec.startup_probe.is_some()
                || spec.liveness_probe.is_some()
                || spec.readiness_probe.is_some();
            if !has || matches!(kind, Kind::Init | Kind::Ephemeral) {
                continue;
            }
            running.insert(container.id.clone(), ());
            if self.watched.contains_key(&container.id) {
                continue;
            }
            let id = format!("{}://{}", status::RUNTIME_NAME, container.id);
            let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
            let known = statuses.flatten().find(|s| s.container_id.as_deref() == Some(&id));
            let initial = known.map_or_else(probe::Initial::default, |s| probe::Initial {
                started: s.started.unwrap_or_default(),
                ready: s.ready,
            });
            let target = probe::Target {
                pod: desired.pod.clone(),
                container: container.name.clone(),
                container_id: container.id.clone(),
                started_at: jiff::Timestamp::from_nanosecond(container.started_at.into()).unwrap_or_default(),
                pod_ip: pod_ip.clone(),
            };
            self.parts.probes.watch(target, initial);
        }
        for gone in self.watched.keys().filter(|id| !running.contains_key(*id)) {
            self.parts.probes.forget(gone);
        }
        self.watched = running;
        let known: Vec<&str> = self.observed.containers.iter().map(|c| c.id.as_str()).collect();
        self.memory.probes.retain(|id, _| known.contains(&id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_of_each_probe_reaches_a_pod_that_does_not_keep_up() {
        let results = Results::default();
        let tell = |container: u32, kind, healthy| {
            results.put(probe::Changed {
                pod_uid: "u".into(),
                container: "c".into(),
                container_id: container.to_string(),
                kind,
                healthy,
                message: String::new(),
                grace_seconds: None,
            });
        };
        for number in 0..1000 {
            tell(number % 40, probe::Kind::Readiness, number % 80 < 40);
        }
        tell(7, probe::Kind::Liveness, false);
        let heard = results.take();
        assert_eq!(heard.len(), 41);
        assert!(!heard[&("7".to_owned(), probe::Kind::Liveness)]);
        assert!(heard[&("39".to_owned(), probe::Kind::Readiness)]);
        assert!(results.take().is_empty());
    }
}
