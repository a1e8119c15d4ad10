//! `/stats/summary` (k8s.io/kubelet stats/v1alpha1).
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::node::{DiskUse, NetworkUse, Use};
use super::{ContainerStats, NodeStats, PodStats};

/// The whole answer.
#[must_use]
pub fn summary(node_name: &str, stats: &NodeStats) -> Value {
    let time = stamp(stats.time);
    let mut node = usage(&stats.node, &time);
    node.insert("nodeName".into(), json!(node_name));
    node.insert("startTime".into(), json!(stamp(stats.boot_time)));
    put(&mut node, "network", network(&stats.network, &time));
    if let Some(used) = &stats.disk {
        let fs = disk(used, &time);
        node.insert("fs".into(), fs.clone());
        node.insert("runtime".into(), json!({ "imageFs": fs, "containerFs": fs }));
    }
    node.insert(
        "rlimit".into(),
        json!({ "time": time, "maxpid": stats.max_pid, "curproc": stats.processes }),
    );
    let pods: Vec<Value> = stats.pods.iter().map(|one| pod(one, stats.disk.as_ref(), &time)).collect();
    json!({ "node": node, "pods": pods })
}

fn pod(pod: &PodStats, fs: Option<&DiskUse>, time: &str) -> Value {
    let mut value = usage(&pod.usage, time);
    let reference = json!({ "name": pod.name, "namespace": pod.namespace, "uid": pod.uid });
    value.insert("podRef".into(), reference);
    value.insert("startTime".into(), json!(stamp(pod.started)));
    put(&mut value, "network", network(&pod.network, time));
    put(&mut value, "process_stats", pod.processes.map(|count| json!({ "process_count": count })));
    let containers: Vec<Value> = pod.containers.iter().map(|one| container(one, fs, time)).collect();
    value.insert("containers".into(), json!(containers));
    Value::Object(value)
}

fn container(container: &ContainerStats, fs: Option<&DiskUse>, time: &str) -> Value {
    let mut value = usage(&container.usage, time);
    value.insert("name".into(), json!(container.name));
    value.insert("startTime".into(), json!(stamp(container.started)));
    let rootfs = container.writable.zip(fs).map(|((bytes, inodes), fs)| {
        json!({
            "time": time, "availableBytes": fs.available, "capacityBytes": fs.capacity, "usedBytes": bytes,
            "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": inodes,
        })
    });
    put(&mut value, "rootfs", rootfs);
    Value::Object(value)
}

fn usage(usage: &Use, time: &str) -> Map<String, Value> {
    let mut value = Map::new();
    let part = |fields: &[(&str, Option<u64>)]| {
        let known: Map<String, Value> =
            fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), json!((*value)?)))).collect();
        (!known.is_empty()).then(|| {
            let mut part = known;
            part.insert("time".into(), json!(time));
            Value::Object(part)
        })
    };
    let cpu = [("usageNanoCores", usage.cpu_nano_cores), ("usageCoreNanoSeconds", usage.cpu_nanos)];
    put(&mut value, "cpu", part(&cpu));
    let memory = [
        ("availableBytes", usage.memory_available),
        ("usageBytes", usage.memory_usage),
        ("workingSetBytes", usage.memory_working_set),
        ("rssBytes", usage.memory_rss),
        ("pageFaults", usage.page_faults),
        ("majorPageFaults", usage.major_page_faults),
    ];
    put(&mut value, "memory", part(&memory));
    let swap = [("swapAvailableBytes", usage.swap_available), ("swapUsageBytes", usage.swap_usage)];
    put(&mut value, "swap", part(&swap));
    value
}

/// The first interface is the default one.
fn network(interfaces: &[NetworkUse], time: &str) -> Option<Value> {
    let one = |interface: &NetworkUse| {
        json!({
            "name": interface.name, "rxBytes": interface.rx_bytes, "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes, "txErrors": interface.tx_errors,
        })
    };
    let mut value = one(interfaces.first()?);
    let fields = value.as_object_mut()?;
    fields.insert("time".into(), json!(time));
    fields.insert("interfaces".into(), interfaces.iter().map(one).collect());
    Some(value)
}

fn disk(fs: &DiskUse, time: &str) -> Value {
    json!({
        "time": time, "availableBytes": fs.available, "capacityBytes": fs.capacity, "usedBytes": fs.used,
        "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

fn put(value: &mut Map<String, Value>, name: &str, part: Option<Value>) {
    if let Some(part) = part {
        value.insert(name.into(), part);
    }
}

/// RFC 3339 to the second, as metav1.Time is written.
fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
