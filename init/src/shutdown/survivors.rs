//! Which processes are still there. Read is /proc/PID/stat alone: it takes no lock of the process, while the command line waits for whoever changes its
//! memory map, for ever where that one waits for a dead file server.
use std::fs;

/// PF_KTHREAD of include/linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// The most that are named.
const NAMED: usize = 8;

/// Processes other than PID 1 and kernel threads that have not ended; the first few of them.
pub fn survivors() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some(format!("{} ({pid})", living(&stat)?))
        })
        .take(NAMED)
        .collect()
}

/// The name of a process that runs user's code and has not ended: fields 2, 3 (state) and 9 (flags) of proc_pid_stat(5). A name may hold anything.
fn living(stat: &str) -> Option<&str> {
    let (start, rest) = stat.rsplit_once(')')?;
    let name = start.split_once('(')?.1;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    (!matches!(state, "Z" | "X") && flags & KERNEL_THREAD == 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_threads_and_the_dead_do_not_survive() {
        let stat = |state: &str, flags: u64| format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 1 2 3 4");
        assert_eq!(living(&stat("D", 0x0040_4100)), Some("a) b"));
        assert_eq!(living(&stat("Z", 0x0040_4100)), None, "it only waits to be reaped");
        assert_eq!(living(&stat("I", KERNEL_THREAD | 0x0400_0000)), None);
        assert_eq!(living("7 (short) S 1"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(living(&own).is_some(), "{own}");
    }

    #[test]
    fn nothing_is_read_that_waits_for_a_memory_map() {
        let source = include_str!("survivors.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        for file in ["/cmdline", "/maps", "/smaps", "/exe", "/environ"] {
            assert!(!code.contains(file), "{file}");
        }
    }
}
