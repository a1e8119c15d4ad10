use std::path::Path;

/// What the arithmetic has to know of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// MemTotal in bytes.
    pub memory_capacity: i64,
    /// Huge page sizes that the kernel offers, in bytes.
    pub huge_page_sizes: Vec<u64>,
    /// Whether the memory controller accounts swap.
    pub swap_controller: bool,
    /// Largest number of processes in a pod; not positive: no limit.
    pub pod_pids_limit: i64,
}

impl NodeFacts {
    /// Reads them from `/proc` and `/sys`.
    ///
    /// # Errors
    /// When `/proc/meminfo` cannot be read.
    pub fn read(pod_pids_limit: i64) -> std::io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let swap = Path::new("/sys/fs/cgroup/kubepods/memory.swap.max").exists();
        Ok(Self {
            memory_capacity: mem_total(&meminfo),
            huge_page_sizes: huge_page_sizes(Path::new("/sys/kernel/mm/hugepages")),
            swap_controller: swap,
            pod_pids_limit,
        })
    }
}

/// A page size as cgroup file names have it: `2MB`, `1GB`, `64KB`.
#[must_use]
pub fn page_size_name(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

fn mem_total(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn huge_page_sizes(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
        })
        .map(|kib| kib << 10)
        .collect();
    sizes.sort_unstable();
    sizes
}
