//! Statistics of containers and pods, from a handful of files of their cgroups each.
use machine::cri;

use crate::cgroup::{Cgroup, field};
use crate::cpu::{CpuSample, LastCpu};
use crate::runtime::{Container, Runtime, Sandbox};
use crate::state::folder;
use crate::state::{Phase, SandboxRecord, now};
use node_kit::lock;

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// A limit that is none counts as none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn cpu(cgroup: &Cgroup, last: &LastCpu) -> cri::CpuUsage {
    let microseconds = field(&cgroup.read("cpu.stat"), "usage_usec").unwrap_or(0);
    let (at, used) = (now(), microseconds * 1000);
    let sample = {
        let mut last = lock(last);
        let next = CpuSample::after(*last, at, used);
        *last = Some(next);
        next
    };
    cri::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: sample.rate.and_then(value),
        psi: psi(&cgroup.read("cpu.pressure")),
    }
}

fn memory(cgroup: &Cgroup) -> cri::MemoryUsage {
    let stat = cgroup.read("memory.stat");
    let of = |name: &str| field(&stat, name).unwrap_or(0);
    let usage = limit(&cgroup.read("memory.current")).unwrap_or(0);
    let working_set = usage.saturating_sub(of("inactive_file"));
    cri::MemoryUsage {
        timestamp: now(),
        working_set_bytes: value(working_set),
        available_bytes: limit(&cgroup.read("memory.max"))
            .and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(usage),
        rss_bytes: value(of("anon")),
        page_faults: value(of("pgfault")),
        major_page_faults: value(of("pgmajfault")),
        psi: psi(&cgroup.read("memory.pressure")),
    }
}

fn swap(cgroup: &Cgroup) -> cri::SwapUsage {
    let usage = limit(&cgroup.read("memory.swap.current")).unwrap_or(0);
    cri::SwapUsage {
        timestamp: now(),
        swap_available_bytes: limit(&cgroup.read("memory.swap.max"))
            .and_then(|limit| value(limit.saturating_sub(usage))),
        swap_usage_bytes: value(usage),
    }
}

fn io(cgroup: &Cgroup) -> cri::IoUsage {
    cri::IoUsage { timestamp: now(), psi: psi(&cgroup.read("io.pressure")) }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn psi(text: &str) -> Option<cri::PsiStats> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let of = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let average = |name: &str| of(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        Some(cri::PsiData {
            // The kernel counts microseconds.
            total: of("total").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * 1000,
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
        })
    };
    (!text.is_empty()).then(|| cri::PsiStats { full: line("full"), some: line("some") })
}

/// What the writable layers lie on.
fn file_system() -> Option<cri::FilesystemIdentifier> {
    Some(cri::FilesystemIdentifier { mountpoint: machine::paths::RUNTIME_STATE.into() })
}

impl Runtime {
    /// One container's statistics.
    pub async fn container_stats(&self, container: &Container) -> cri::ContainerStats {
        let record = container.record();
        let attributes = cri::ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        };
        let used = self.images.usage(&record.id);
        let layer = cri::FilesystemUsage {
            timestamp: used.map_or_else(now, |used| used.at),
            fs_id: file_system(),
            used_bytes: used.and_then(|used| value(used.usage.bytes)),
            inodes_used: used.and_then(|used| value(used.usage.inodes)),
        };
        let mut stats = cri::ContainerStats {
            attributes: Some(attributes),
            writable_layer: Some(layer),
            ..Default::default()
        };
        if record.phase == Phase::Running {
            let cgroup = container.cgroup();
            stats.cpu = Some(cpu(&cgroup, &container.last_cpu));
            stats.memory = Some(memory(&cgroup));
            stats.swap = Some(swap(&cgroup));
            stats.io = Some(io(&cgroup));
        }
        stats
    }

    /// What the pod sent and received; none of a pod in the host's network.
    async fn network_usage(&self, record: &SandboxRecord) -> Option<cri::NetworkUsage> {
        let traffic = self.network.traffic(&record.id, &folder("ns", &record.id).join("net")).await?;
        let interface = cri::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: value(traffic.received),
            rx_errors: value(traffic.receive_errors),
            tx_bytes: value(traffic.sent),
            tx_errors: value(traffic.send_errors),
        };
        Some(cri::NetworkUsage {
            timestamp: now(),
            default_interface: Some(interface),
            interfaces: Vec::new(),
        })
    }

    /// A pod's statistics, with its containers'.
    pub async fn sandbox_stats(&self, sandbox: &Sandbox) -> cri::PodSandboxStats {
        let record = sandbox.record();
        let parent =
            record.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        let cgroup = Cgroup::new(&parent, "");
        let mut containers = Vec::new();
        for container in self.containers_of(Some(&record.id)) {
            if container.phase() == Phase::Running {
                containers.push(self.container_stats(&container).await);
            }
        }
        let processes = limit(&cgroup.read("pids.current")).unwrap_or(0);
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cpu(&cgroup, &sandbox.last_cpu)),
                memory: Some(memory(&cgroup)),
                network: self.network_usage(&record).await,
                process: Some(cri::ProcessUsage { timestamp: now(), process_count: value(processes) }),
                containers,
                io: Some(io(&cgroup)),
            }),
            windows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_nanoseconds() {
        let stats = psi("some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.25 avg300=0.00 total=3\n").unwrap();
        assert_eq!((stats.some.as_ref().unwrap().avg10, stats.some.unwrap().total), (1.5, 12_000));
        assert_eq!(stats.full.unwrap().avg60, 0.25);
        assert!(psi("").is_none());
    }
}
