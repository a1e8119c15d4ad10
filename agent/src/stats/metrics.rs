//! Prometheus text. The names, helps and labels of `/metrics/resource` are the kubelet's, since metrics-server reads them.
use std::fmt::Write as _;

use jiff::Timestamp;

use super::{ContainerStats, NodeStats, PodStats, Use};
use crate::pods::ServedPod;
use crate::probe::ProbeCount;

/// Builds one family after the other. Writing to a String cannot fail, so results are dropped.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, time: Option<Timestamp>) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let joined: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
            let _ = write!(self.0, "{{{}}}", joined.join(","));
        }
        let _ = match time {
            Some(time) => writeln!(self.0, " {value} {}", time.as_millisecond()),
            None => writeln!(self.0, " {value}"),
        };
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A family of samples: its name, its kind, what it says of itself, and where its value comes from.
type Family = (&'static str, &'static str, &'static str, fn(&Use) -> Option<f64>);

fn cpu(usage: &Use) -> Option<f64> {
    usage.cpu_nanos.map(seconds)
}

fn memory(usage: &Use) -> Option<f64> {
    usage.memory_working_set.map(|bytes| bytes as f64)
}

fn swap(usage: &Use) -> Option<f64> {
    usage.swap_usage.map(|bytes| bytes as f64)
}

fn swap_limit(usage: &Use) -> Option<f64> {
    usage.swap_usage.zip(usage.swap_available).map(|(used, free)| (used + free) as f64)
}

const OF_CONTAINERS: [Family; 4] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        cpu,
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
        memory,
    ),
    (
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        swap,
    ),
    (
        "container_swap_limit_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        swap_limit,
    ),
];

const OF_NODE: [Family; 3] = [
    (
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        cpu,
    ),
    ("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes", memory),
    (
        "node_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        swap,
    ),
];

const OF_PODS: [Family; 3] = [
    (
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        cpu,
    ),
    ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", memory),
    (
        "pod_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        swap,
    ),
];

/// `/metrics/resource`.
#[must_use]
pub fn resource_metrics(stats: &NodeStats) -> String {
    let mut text = Text::default();
    let containers =
        || stats.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    let labels = |pod: &PodStats, container: &ContainerStats| {
        [
            ("container", container.name.clone()),
            ("namespace", pod.namespace.clone()),
            ("pod", pod.name.clone()),
        ]
    };
    let of_container = |text: &mut Text, name, pod, container, value, time| {
        let labels = labels(pod, container);
        let labels = labels.each_ref().map(|(name, value)| (*name, &**value));
        text.sample(name, &labels, value, time);
    };
    for (name, kind, help, get) in OF_CONTAINERS {
        text.family(name, kind, help);
        for (pod, container) in containers() {
            if let Some(value) = get(&container.usage) {
                of_container(&mut text, name, pod, container, value, Some(stats.time));
            }
        }
    }
    let started = "container_start_time_seconds";
    text.family(started, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for (pod, container) in containers() {
        let value = container.started.as_microsecond() as f64 / 1e6;
        of_container(&mut text, started, pod, container, value, None);
    }
    for (name, kind, help, get) in OF_NODE {
        if let Some(value) = get(&stats.node) {
            text.family(name, kind, help);
            text.sample(name, &[], value, Some(stats.time));
        }
    }
    for (name, kind, help, get) in OF_PODS {
        text.family(name, kind, help);
        for pod in &stats.pods {
            if let Some(value) = get(&pod.usage) {
                let labels = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
                text.sample(name, &labels, value, Some(stats.time));
            }
        }
    }
    for (name, stability) in [("resource_scrape_error", "STABLE"), ("scrape_error", "ALPHA")] {
        let help =
            format!("[{stability}] 1 if there was an error while getting container metrics, 0 otherwise");
        text.family(name, "gauge", &help);
        text.sample(name, &[], 0.0, None);
    }
    text.0
}

/// `/metrics/cadvisor`: the series that dashboards and autoscalers use, with cAdvisor's labels.
#[must_use]
pub fn cadvisor_metrics(stats: &NodeStats) -> String {
    type Get = fn(&Use) -> Option<f64>;
    let families: [(&str, &str, &str, Get); 4] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            |usage| usage.cpu_nanos.map(seconds),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |usage| {
            usage.memory_working_set.map(|b| b as f64)
        }),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |usage| usage.memory_usage.map(|b| b as f64),
        ),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |usage| {
            usage.memory_rss.map(|b| b as f64)
        }),
    ];
    let mut text = Text::default();
    for (name, kind, help, get) in families {
        text.family(name, kind, help);
        if let Some(value) = get(&stats.node) {
            let labels =
                [("container", ""), ("id", "/"), ("image", ""), ("name", ""), ("namespace", ""), ("pod", "")];
            text.sample(name, &labels, value, Some(stats.time));
        }
        for pod in &stats.pods {
            let id = &pod.cgroup;
            if let Some(value) = get(&pod.usage) {
                let labels = cadvisor_labels(pod, "", id, "", "");
                text.sample(name, &labels, value, Some(stats.time));
            }
            for container in &pod.containers {
                let id = format!("{id}/{}", container.id);
                if let Some(value) = get(&container.usage) {
                    let labels = cadvisor_labels(pod, &container.name, &id, &container.image, &container.id);
                    text.sample(name, &labels, value, Some(stats.time));
                }
            }
        }
    }
    let counters = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received"),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"),
    ];
    for (at, (name, help)) in counters.into_iter().enumerate() {
        text.family(name, "counter", help);
        for pod in &stats.pods {
            for interface in &pod.network {
                let labels =
                    [("interface", &*interface.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                let value = if at == 0 { interface.rx_bytes } else { interface.tx_bytes };
                text.sample(name, &labels, value as f64, Some(stats.time));
            }
        }
    }
    text.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    text.sample("machine_cpu_cores", &[], f64::from(stats.cpu_cores), None);
    text.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    text.sample("machine_memory_bytes", &[], stats.memory_capacity as f64, None);
    text.0
}

fn cadvisor_labels<'a>(
    pod: &'a PodStats,
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
) -> [(&'static str, &'a str); 6] {
    let (namespace, pod) = (pod.namespace.as_str(), pod.name.as_str());
    [
        ("container", container),
        ("id", id),
        ("image", image),
        ("name", name),
        ("namespace", namespace),
        ("pod", pod),
    ]
}

/// `/metrics/probes`.
#[must_use]
pub fn probe_metrics(counts: &[ProbeCount]) -> String {
    let mut text = Text::default();
    let help =
        "[ALPHA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    text.family("prober_probe_total", "counter", help);
    for count in counts {
        for (kind, results) in &count.results {
            for (result, value) in ["successful", "failed", "unknown"].into_iter().zip(results) {
                let labels = [
                    ("container", &*count.container),
                    ("namespace", &*count.namespace),
                    ("pod", &*count.pod),
                    ("pod_uid", &*count.pod_uid),
                    ("probe_type", kind.as_str()),
                    ("result", result),
                ];
                if *value > 0 {
                    text.sample("prober_probe_total", &labels, *value as f64, None);
                }
            }
        }
    }
    text.0
}

/// `/metrics`: what the agent says of itself, and what PID 1 counts of the node's services.
#[must_use]
pub fn node_agent_metrics(pods: &[ServedPod], services: &[machine::socket::Service]) -> String {
    let running = |pod: &&ServedPod| {
        pod.pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    let states = pods.iter().filter_map(|pod| pod.pod.status.as_ref());
    let containers = states.flat_map(|status| status.container_statuses.iter().flatten());
    let mut counts = [("created", 0_u32), ("exited", 0), ("running", 0)];
    for state in containers.filter_map(|status| status.state.as_ref()) {
        let at = if state.running.is_some() { 2 } else { usize::from(state.terminated.is_some()) };
        counts[at].1 += 1;
    }
    let mut text = Text::default();
    text.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    text.sample("kubelet_running_pods", &[], pods.iter().filter(running).count() as f64, None);
    text.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (state, count) in counts {
        text.sample("kubelet_running_containers", &[("container_state", state)], f64::from(count), None);
    }
    type Count = fn(&machine::socket::Service) -> u32;
    let of_services: [(&str, &str, Count); 2] = [
        ("pintle_service_restarts_total", "How often the service was started again.", |s| s.restarts),
        (
            "pintle_service_heartbeats_lost_total",
            "How often the service gave no sign of life and was ended for it.",
            |s| s.hangs,
        ),
    ];
    for (name, help, count) in of_services.into_iter().filter(|_| !services.is_empty()) {
        text.family(name, "counter", help);
        for service in services {
            text.sample(name, &[("service", &*service.name)], f64::from(count(service)), None);
        }
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = super::node::keyed(&own, "VmRSS") {
        text.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        text.sample("process_resident_memory_bytes", &[], kib as f64 * 1024.0, None);
    }
    text.0
}
