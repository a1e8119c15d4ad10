//! What init and its services consume, as /proc and their cgroups tell.
use std::fs;
use std::path::Path;

use machine::socket::{Process, ServiceProcesses};

use crate::services::cgroups;

/// The most processes listed of one service; the runtime's launchers come and go.
const MAX_PROCESSES: usize = 64;

/// Every service that runs, init first. A process that ends meanwhile is left out.
pub fn list() -> Vec<ServiceProcesses> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    cgroups()
        .filter_map(|(service, cgroup)| {
            let folder = Path::new("/sys/fs/cgroup").join(cgroup);
            let members = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
            let pids = members.lines().filter_map(|line| line.parse().ok()).take(MAX_PROCESSES);
            let processes: Vec<Process> = pids.filter_map(|pid| process(pid, ticks as f64)).collect();
            let usage = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
            let cpu_seconds = field(&usage, "usage_usec").unwrap_or(0) as f64 / 1e6;
            (!processes.is_empty()).then(|| ServiceProcesses {
                service: service.into(),
                cpu_seconds,
                processes,
            })
        })
        .collect()
}

fn process(pid: i32, ticks: f64) -> Option<Process> {
    let folder = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let memory = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
    let (command, cpu, threads) = describe(&stat)?;
    let kibibytes = |name| field(&memory, name).unwrap_or(0) * 1024;
    Some(Process {
        pid,
        command,
        pss_bytes: kibibytes("Pss:"),
        rss_bytes: kibibytes("Rss:"),
        cpu_seconds: cpu as f64 / ticks,
        threads,
    })
}

/// Name, clock ticks of user and system time, and threads: fields 2, 14, 15 and 20 of /proc/PID/stat. A name may hold anything.
fn describe(stat: &str) -> Option<(String, u64, u32)> {
    let (start, rest) = stat.rsplit_once(')')?;
    let command = start.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
    Some((command, number(14)? + number(15)?, number(20)?.try_into().ok()?))
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 42 1000 5";
        assert_eq!(describe(stat), Some(("a) b".into(), 300, 3)));
        assert_eq!(describe("7 (short) S 1"), None);
    }

    #[test]
    fn numbers_are_found_by_whole_names() {
        let rollup = "5000-7fff ---p 0 00:00 0 [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(
            (field(rollup, "Pss:"), field(rollup, "Rss:"), field(rollup, "Swap:")),
            (Some(1024), Some(2048), None)
        );
    }

    #[test]
    fn this_process_has_memory_and_a_thread() {
        let me = process(std::process::id().cast_signed(), 100.0).unwrap();
        assert!(me.pss_bytes > 0 && me.pss_bytes <= me.rss_bytes && me.threads > 0);
    }
}
