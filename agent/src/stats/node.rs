use std::collections::HashMap;

/// CPU and memory of a node, pod or container; what is not known is left out of every answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Since start, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Now, in billionths of a core.
    pub cpu_nano_cores: Option<u64>,
    pub memory_usage: Option<u64>,
    pub memory_working_set: Option<u64>,
    pub memory_available: Option<u64>,
    pub memory_rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap_usage: Option<u64>,
    pub swap_available: Option<u64>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkUse {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// One file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    pub capacity: u64,
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// `/proc/meminfo` in bytes by name.
#[must_use]
pub fn parse_meminfo(text: &str) -> HashMap<&str, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter_map(|(name, value)| {
            let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
            Some((name, kib.saturating_mul(1024)))
        })
        .collect()
}

/// A value of a flat keyed cgroup or proc file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix([' ', ':']));
    line?.split_whitespace().next()?.parse().ok()
}

/// Interfaces of `/proc/net/dev`, loopback left out.
pub(super) fn parse_net_dev(text: &str) -> Vec<NetworkUse> {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .filter_map(|(name, counters)| {
            let name = name.trim();
            let counters: Vec<u64> =
                counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            (name != "lo" && counters.len() >= 11).then(|| NetworkUse {
                name: name.to_owned(),
                rx_bytes: counters[0],
                rx_errors: counters[2],
                tx_bytes: counters[8],
                tx_errors: counters[10],
            })
        })
        .collect()
}
