//! The node's processes.
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cgroups;

/// Flag of a kernel thread in `/proc/<pid>/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Every process: pid, start time in ticks since boot, executable, command line, cgroup, and whether it is a kernel thread or a zombie.
pub fn all() -> Result<Vec<Value>> {
    let cgroups = cgroups::by_process();
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list processes")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // It may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((name, state, flags, start)) = fields(&stat) else { continue };
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        processes.push(json!({
            "pid": pid,
            "name": name,
            "start": start,
            "kernel": flags & PF_KTHREAD != 0,
            "zombie": state == "Z",
            "executable": exe.to_string_lossy(),
            "command": command.trim_end(),
            "cgroup": cgroups.get(&pid).map_or("", String::as_str),
        }));
    }
    Ok(processes)
}

/// Sends a signal to the services whose executables have these names, all at once; returns their pids.
pub fn signal(signal: Signal, names: &[&str]) -> Result<String> {
    let processes = all()?;
    let mut victims = Vec::new();
    for name in names {
        let path = format!("/usr/lib/pintle/{name}");
        // The service itself: what it started for a moment lies in the same cgroup with another executable.
        let mut own = processes.iter().filter(|process| process["executable"] == path.as_str()).peekable();
        ensure!(own.peek().is_some(), "no process runs {path}");
        for process in own {
            let pid = process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            victims.push(pid.and_then(Pid::from_raw).context("the process's id")?);
        }
    }
    for pid in &victims {
        kill_process(*pid, signal).with_context(|| format!("signal {}", names.join(" or ")))?;
    }
    let pids: Vec<String> = victims.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
    Ok(pids.join("\n"))
}

/// Name, state, flags and start time; the name may hold blanks and parentheses.
fn fields(stat: &str) -> Option<(&str, &str, u64, u64)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some((
        head.split_once('(')?.1,
        fields.first()?,
        fields.get(6)?.parse().ok()?,
        fields.get(19)?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 2097152 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(fields(stat), Some(("a (b) c", "S", PF_KTHREAD, 4242)));
    }
}
