//! Memory of every process in the contender's pid namespace.
use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Bytes of proportional set size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The daemon.
    pub daemon: u64,
    /// The users' processes.
    pub containers: u64,
    /// Everything else: shims, pause processes.
    pub helpers: u64,
}

/// Measures now. `apart` are processes that are neither: the measuring ones.
///
/// # Errors
/// When /proc cannot be read.
pub fn measure(daemon: i32, containers: &[i32], apart: &[i32]) -> Result<Memory> {
    let mut memory = Memory::default();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ends meanwhile needs none.
        let bytes = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_or(0, |text| pss(&text));
        match pid {
            pid if apart.contains(&pid) => {}
            pid if pid == daemon => memory.daemon += bytes,
            pid if containers.contains(&pid) => memory.containers += bytes,
            _ => memory.helpers += bytes,
        }
    }
    Ok(memory)
}

fn pss(rollup: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_share_is_read_and_not_the_whole() {
        assert_eq!(super::pss("Rss:   9 kB\nPss:   3 kB\nPss_Dirty: 1 kB\n"), 3072);
    }
}
