//! Metrics by the names that cAdvisor gave them, from the same statistics as everything else.
use machine::cri::{self, MetricType};

/// Labels of a container's metrics; a pod's have an empty container and image.
const LABELS: [&str; 5] = ["id", "name", "pod", "namespace", "image"];
/// Labels of the metrics of a pod's network.
const NETWORK_LABELS: [&str; 3] = ["pod", "namespace", "interface"];

const COUNTER: MetricType = MetricType::Counter;
const GAUGE: MetricType = MetricType::Gauge;

struct Kind {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    of_network: bool,
}

const fn kind(name: &'static str, help: &'static str, kind: MetricType) -> Kind {
    Kind { name, help, kind, of_network: false }
}

const fn network(name: &'static str, help: &'static str) -> Kind {
    Kind { name, help, kind: COUNTER, of_network: true }
}

const CPU: Kind = kind("container_cpu_usage_seconds_total", "CPU time used, in seconds.", COUNTER);
const WORKING_SET: Kind =
    kind("container_memory_working_set_bytes", "Memory in use that cannot be reclaimed easily.", GAUGE);
const USAGE: Kind = kind("container_memory_usage_bytes", "Memory in use, caches included.", GAUGE);
const RSS: Kind = kind("container_memory_rss", "Anonymous memory in use.", GAUGE);
const SWAP: Kind = kind("container_memory_swap", "Swap in use, in bytes.", GAUGE);
const FAULTS: Kind = kind("container_memory_failures_total", "Page faults.", COUNTER);
const FILES: Kind = kind("container_fs_usage_bytes", "Bytes of the writable layer.", GAUGE);
const INODES: Kind = kind("container_fs_inodes_total", "Files of the writable layer.", GAUGE);
const PROCESSES: Kind = kind("container_processes", "Processes of the pod.", GAUGE);
const RECEIVED: Kind = network("container_network_receive_bytes_total", "Bytes received.");
const RECEIVE_ERRORS: Kind = network("container_network_receive_errors_total", "Errors while receiving.");
const SENT: Kind = network("container_network_transmit_bytes_total", "Bytes sent.");
const SEND_ERRORS: Kind = network("container_network_transmit_errors_total", "Errors while sending.");

const ALL: [&Kind; 13] = [
    &CPU,
    &WORKING_SET,
    &USAGE,
    &RSS,
    &SWAP,
    &FAULTS,
    &FILES,
    &INODES,
    &PROCESSES,
    &RECEIVED,
    &RECEIVE_ERRORS,
    &SENT,
    &SEND_ERRORS,
];

/// Every metric that there is.
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    ALL.iter()
        .map(|kind| cri::MetricDescriptor {
            name: kind.name.into(),
            help: kind.help.into(),
            label_keys: if kind.of_network { NETWORK_LABELS.as_slice() } else { &LABELS }
                .iter()
                .map(|label| (*label).to_owned())
                .collect(),
        })
        .collect()
}

/// Metrics of one thing, with the labels that all of them have.
struct Collector {
    labels: Vec<String>,
    metrics: Vec<cri::Metric>,
}

impl Collector {
    fn add(&mut self, kind: &Kind, value: Option<u64>) {
        let Some(value) = value else { return };
        self.metrics.push(cri::Metric {
            name: kind.name.into(),
            timestamp: 0,
            metric_type: kind.kind as i32,
            label_values: self.labels.clone(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    fn usage(&mut self, cpu: Option<&cri::CpuUsage>, memory: Option<&cri::MemoryUsage>) {
        let number = |value: &Option<cri::UInt64Value>| value.as_ref().map(|value| value.value);
        self.add(
            &CPU,
            cpu.and_then(|cpu| number(&cpu.usage_core_nano_seconds)).map(|nanos| nanos / 1_000_000_000),
        );
        let Some(memory) = memory else { return };
        self.add(&WORKING_SET, number(&memory.working_set_bytes));
        self.add(&USAGE, number(&memory.usage_bytes));
        self.add(&RSS, number(&memory.rss_bytes));
        self.add(&FAULTS, number(&memory.page_faults));
    }
}

fn number(value: Option<&cri::UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

/// The metrics of a pod and its containers.
pub fn of_pod(stats: &cri::PodSandboxStats) -> cri::PodSandboxMetrics {
    let attributes = stats.attributes.clone().unwrap_or_default();
    let pod = attributes.metadata.unwrap_or_default();
    let linux = stats.linux.clone().unwrap_or_default();
    let labels = |id: &str, name: &str, image: &str| {
        [id, name, &pod.name, &pod.namespace, image].map(str::to_owned).to_vec()
    };
    let mut own = Collector { labels: labels(&attributes.id, "", ""), metrics: Vec::new() };
    own.usage(linux.cpu.as_ref(), linux.memory.as_ref());
    own.add(&PROCESSES, number(linux.process.as_ref().and_then(|process| process.process_count.as_ref())));
    if let Some(link) = linux.network.as_ref().and_then(|network| network.default_interface.as_ref()) {
        own.labels = vec![pod.name.clone(), pod.namespace.clone(), link.name.clone()];
        own.add(&RECEIVED, number(link.rx_bytes.as_ref()));
        own.add(&RECEIVE_ERRORS, number(link.rx_errors.as_ref()));
        own.add(&SENT, number(link.tx_bytes.as_ref()));
        own.add(&SEND_ERRORS, number(link.tx_errors.as_ref()));
    }
    let container_metrics = linux
        .containers
        .iter()
        .map(|container| {
            let attributes = container.attributes.clone().unwrap_or_default();
            let name = attributes.metadata.unwrap_or_default().name;
            let mut all = Collector { labels: labels(&attributes.id, &name, ""), metrics: Vec::new() };
            all.usage(container.cpu.as_ref(), container.memory.as_ref());
            all.add(&SWAP, number(container.swap.as_ref().and_then(|swap| swap.swap_usage_bytes.as_ref())));
            let layer = container.writable_layer.as_ref();
            all.add(&FILES, number(layer.and_then(|layer| layer.used_bytes.as_ref())));
            all.add(&INODES, number(layer.and_then(|layer| layer.inodes_used.as_ref())));
            cri::ContainerMetrics { container_id: attributes.id, metrics: all.metrics }
        })
        .collect();
    cri::PodSandboxMetrics { pod_sandbox_id: attributes.id, metrics: own.metrics, container_metrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_descriptor_with_as_many_labels() {
        let value = |value| Some(cri::UInt64Value { value });
        let cpu = Some(cri::CpuUsage { usage_core_nano_seconds: value(2_500_000_000), ..Default::default() });
        let link =
            cri::NetworkInterfaceUsage { name: "eth0".into(), rx_bytes: value(7), ..Default::default() };
        let container = cri::ContainerStats {
            cpu,
            swap: Some(cri::SwapUsage { swap_usage_bytes: value(1), ..Default::default() }),
            ..Default::default()
        };
        let stats = cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes { id: "s".into(), ..Default::default() }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu,
                network: Some(cri::NetworkUsage { default_interface: Some(link), ..Default::default() }),
                containers: vec![container],
                ..Default::default()
            }),
            windows: None,
        };
        let pod = of_pod(&stats);
        let all: Vec<&cri::Metric> = pod
            .metrics
            .iter()
            .chain(pod.container_metrics.iter().flat_map(|container| &container.metrics))
            .collect();
        assert_eq!(all.len(), 4);
        let descriptors = descriptors();
        for metric in all {
            let descriptor = descriptors.iter().find(|descriptor| descriptor.name == metric.name).unwrap();
            assert_eq!(descriptor.label_keys.len(), metric.label_values.len(), "{}", metric.name);
        }
        assert_eq!(pod.metrics[0].value, value(2));
    }
}
