//! Probes of running containers: which there are, and what they said.
use std::collections::BTreeMap;

use super::{Desired, Worker};
use crate::pod::observed::State;
use crate::pod::spec::Kind;
use crate::pod::{spec, status};
use crate::probe;

impl Worker {
    pub(super) fn probed(&mut self, probe: probe::Changed) {
        let entry = self.memory.probes.entry(probe.container_id).or_default();
        match probe.kind {
            probe::Kind::Startup => entry.startup = Some(probe.healthy),
            probe::Kind::Liveness => entry.liveness = Some(probe.healthy),
            probe::Kind::Readiness => entry.readiness = Some(probe.healthy),
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
