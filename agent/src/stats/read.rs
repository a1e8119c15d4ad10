use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use machine::cri;

use super::node::{DiskUse, NetworkUse, Use, keyed, parse_meminfo, parse_net_dev};
use super::{ContainerStats, NodeStats, PodStats};

/// Measures the node and combines it with what the runtime says of its sandboxes. Sandboxes that are none of `pods` are left out.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn read(disk: &Path, sandboxes: &[cri::PodSandboxStats], pods: &[Arc<Pod>]) -> io::Result<NodeStats> {
    let mut stats = read_node(disk)?;
    stats.pods = sandboxes.iter().filter_map(|sandbox| pod_stats(sandbox, pods)).collect();
    Ok(stats)
}

/// Measures the node alone.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn read_node(disk: &Path) -> io::Result<NodeStats> {
    let proc = |name: &str| std::fs::read_to_string(Path::new("/proc").join(name));
    let (meminfo, stat) = (proc("meminfo")?, proc("stat")?);
    let meminfo = parse_meminfo(&meminfo);
    let get = |name: &str| meminfo.get(name).copied();
    let total = get("MemTotal").unwrap_or(0);
    let now = Timestamp::now();
    let uptime = proc("uptime")?;
    let uptime: f64 = uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let booted = SignedDuration::try_from_secs_f64(uptime).ok().and_then(|up| now.checked_sub(up).ok());
    let vmstat = proc("vmstat").unwrap_or_default();
    let available = get("MemAvailable");
    let (swap_total, swap_free) = (get("SwapTotal"), get("SwapFree"));
    let loadavg = proc("loadavg").unwrap_or_default();
    let processes = loadavg.split_whitespace().nth(3).and_then(|word| word.split_once('/')?.1.parse().ok());
    let node = Use {
        cpu_nanos: root_cpu_nanos(&stat),
        cpu_nano_cores: None,
        memory_usage: get("MemFree").map(|free| total.saturating_sub(free)),
        // What cannot be reclaimed: the kernel's own estimate, with the page cache not counted.
        memory_working_set: available.map(|available| total.saturating_sub(available)),
        memory_available: available,
        memory_rss: get("AnonPages"),
        page_faults: keyed(&vmstat, "pgfault"),
        major_page_faults: keyed(&vmstat, "pgmajfault"),
        swap_usage: swap_total.zip(swap_free).map(|(total, free)| total.saturating_sub(free)),
        swap_available: swap_free,
    };
    Ok(NodeStats {
        time: now,
        boot_time: booted.unwrap_or(now),
        node,
        network: parse_net_dev(&proc("net/dev").unwrap_or_default()),
        disk: disk_use(disk),
        cpu_cores: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        memory_capacity: total,
        max_pid: proc("sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        processes: processes.unwrap_or(0),
        pods: Vec::new(),
    })
}

/// All CPU time but idle and waiting, of `/proc/stat`'s first line, in nanoseconds.
fn root_cpu_nanos(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal; guest time is part of user. A tick is 10 ms (USER_HZ is 100 on x86-64).
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<u64>();
    (fields.len() >= 8).then(|| busy.saturating_mul(10_000_000))
}

pub(super) fn disk_use(path: &Path) -> Option<DiskUse> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    let block = found.fragment_size();
    let capacity = found.blocks().saturating_mul(block);
    Some(DiskUse {
        capacity,
        available: found.blocks_available().saturating_mul(block),
        used: capacity.saturating_sub(found.blocks_free().saturating_mul(block)),
        inodes: found.files(),
        inodes_free: found.files_free(),
    })
}

fn value(value: Option<&cri::UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

fn usage(
    cpu: Option<&cri::CpuUsage>,
    memory: Option<&cri::MemoryUsage>,
    swap: Option<&cri::SwapUsage>,
) -> Use {
    Use {
        cpu_nanos: cpu.and_then(|cpu| value(cpu.usage_core_nano_seconds.as_ref())),
        cpu_nano_cores: cpu.and_then(|cpu| value(cpu.usage_nano_cores.as_ref())),
        memory_usage: memory.and_then(|memory| value(memory.usage_bytes.as_ref())),
        memory_working_set: memory.and_then(|memory| value(memory.working_set_bytes.as_ref())),
        memory_available: memory.and_then(|memory| value(memory.available_bytes.as_ref())),
        memory_rss: memory.and_then(|memory| value(memory.rss_bytes.as_ref())),
        page_faults: memory.and_then(|memory| value(memory.page_faults.as_ref())),
        major_page_faults: memory.and_then(|memory| value(memory.major_page_faults.as_ref())),
        swap_usage: swap.and_then(|swap| value(swap.swap_usage_bytes.as_ref())),
        swap_available: swap.and_then(|swap| value(swap.swap_available_bytes.as_ref())),
    }
}

fn pod_stats(sandbox: &cri::PodSandboxStats, pods: &[Arc<Pod>]) -> Option<PodStats> {
    let metadata = sandbox.attributes.as_ref()?.metadata.as_ref()?;
    let linux = sandbox.linux.as_ref()?;
    let pod = pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(metadata.uid.as_str()))?;
    let status = pod.status.as_ref();
    let started = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let network = linux.network.as_ref().map(|network| {
        let all = network.default_interface.iter().chain(&network.interfaces);
        all.map(|interface| NetworkUse {
            name: interface.name.clone(),
            rx_bytes: value(interface.rx_bytes.as_ref()).unwrap_or(0),
            rx_errors: value(interface.rx_errors.as_ref()).unwrap_or(0),
            tx_bytes: value(interface.tx_bytes.as_ref()).unwrap_or(0),
            tx_errors: value(interface.tx_errors.as_ref()).unwrap_or(0),
        })
        .collect()
    });
    Some(PodStats {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        cgroup: crate::cgroup::cgroup_parent(pod),
        started: started.unwrap_or_default(),
        usage: usage(linux.cpu.as_ref(), linux.memory.as_ref(), None),
        network: network.unwrap_or_default(),
        processes: linux.process.as_ref().and_then(|process| value(process.process_count.as_ref())),
        containers: linux.containers.iter().filter_map(|container| container_stats(container, pod)).collect(),
    })
}

/// Only containers that run now: the others' counters stand still.
fn container_stats(container: &cri::ContainerStats, pod: &Pod) -> Option<ContainerStats> {
    let attributes = container.attributes.as_ref()?;
    let name = &attributes.metadata.as_ref()?.name;
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == *name)?;
    let running = found.state.as_ref()?.running.as_ref()?;
    let writable = container.writable_layer.as_ref();
    Some(ContainerStats {
        name: name.clone(),
        id: attributes.id.clone(),
        image: found.image.clone(),
        started: running.started_at.as_ref().map(|time| time.0).unwrap_or_default(),
        usage: usage(container.cpu.as_ref(), container.memory.as_ref(), container.swap.as_ref()),
        writable: writable.map(|layer| {
            (value(layer.used_bytes.as_ref()).unwrap_or(0), value(layer.inodes_used.as_ref()).unwrap_or(0))
        }),
    })
}
