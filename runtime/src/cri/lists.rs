//! Lists with their filters, whole and in batches.
use machine::cri::{self, ContainerFilter, PodSandboxFilter};

use super::convert::{self, selected};
use super::{Answer, Service, Streamed, answer};
use containers::Phase;

/// Items per message of a streamed list.
const BATCH: usize = 100;

/// A list as a stream of messages.
pub(super) fn batches<T: Clone + Send + 'static, M: Send + 'static>(
    items: &[T],
    message: fn(Vec<T>) -> M,
) -> Answer<Streamed<M>> {
    let batches: Vec<_> = items.chunks(BATCH).map(|items| Ok(message(items.to_vec()))).collect();
    answer(Box::pin(tokio_stream::iter(batches)))
}

impl Service {
    pub(super) fn containers(&self, filter: Option<ContainerFilter>) -> Vec<cri::Container> {
        let filter = filter.unwrap_or_default();
        let all = self.runtime.containers_of(None);
        let records = all.iter().map(|container| convert::container(&container.record()));
        records
            .filter(|container| {
                container.id.starts_with(&filter.id)
                    && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                    && filter.state.as_ref().is_none_or(|state| state.state == container.state)
                    && selected(&container.labels, &filter.label_selector)
            })
            .collect()
    }

    pub(super) fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let all = self.runtime.all_sandboxes();
        let records = all.iter().map(|sandbox| convert::sandbox(&sandbox.record()));
        records
            .filter(|sandbox| {
                sandbox.id.starts_with(&filter.id)
                    && filter.state.as_ref().is_none_or(|state| state.state == sandbox.state)
                    && selected(&sandbox.labels, &filter.label_selector)
            })
            .collect()
    }

    pub(super) async fn all_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let mut stats = Vec::new();
        for container in self.runtime.containers_of(None) {
            let record = container.record();
            let wanted = record.id.starts_with(&filter.id)
                && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && selected(&record.config.labels, &filter.label_selector);
            if wanted && record.phase == Phase::Running {
                stats.push(self.runtime.container_stats(&container).await);
            }
        }
        stats
    }

    pub(super) async fn all_sandbox_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let mut stats = Vec::new();
        for sandbox in self.runtime.all_sandboxes() {
            let record = sandbox.record();
            if record.ready
                && record.id.starts_with(&filter.id)
                && selected(&record.config.labels, &filter.label_selector)
            {
                stats.push(self.runtime.sandbox_stats(&sandbox).await);
            }
        }
        stats
    }

    pub(super) async fn all_sandbox_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        self.all_sandbox_stats(None).await.iter().map(crate::metrics::of_pod).collect()
    }
}
