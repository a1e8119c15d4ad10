//! Processor time of a contender.
use anyhow::{Context, Result};

/// Milliseconds that everything in the contender's cgroup has used.
pub fn processor_time() -> Result<f64> {
    let text =
        std::fs::read_to_string("/sys/fs/cgroup/cpu.stat").context("read the cgroup's processor time")?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(usage.context("cpu.stat has no usage_usec")?.parse::<f64>()? / 1e3)
}
