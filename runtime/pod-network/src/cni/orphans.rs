//! Plugins that a killed runtime has left running. One that is still adding must end before DEL, or it would finish behind DEL's back.
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A killed process is gone much sooner, unless it hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills every process below `proc` that is a plugin, or a plugin's plugin, run for one of `ids`, and waits for their end. A plugin passes its
/// environment on to those it runs, so that is what tells them.
pub fn kill_left(proc: &Path, ids: &BTreeSet<String>) {
    if ids.is_empty() {
        return;
    }
    let begun = Instant::now();
    loop {
        let left = of(proc, ids);
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if left.is_empty() || begun.elapsed() > PATIENCE {
            return;
        }
        tracing::warn!(processes = ?left, "ended CNI plugins that were left running");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn of(proc: &Path, ids: &BTreeSet<String>) -> Vec<i32> {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    processes
        .filter_map(pid)
        .filter(|pid: &i32| {
            std::fs::read(proc.join(pid.to_string()).join("environ"))
                .is_ok_and(|environment| container(&environment).is_some_and(|id| ids.contains(id)))
        })
        .collect()
}

/// The container that a process with this environment is a plugin for.
fn container(environment: &[u8]) -> Option<&str> {
    let value = |name: &[u8]| {
        environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
    };
    value(b"CNI_COMMAND")?;
    std::str::from_utf8(value(b"CNI_CONTAINERID")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plugins_environment_names_a_container() {
        assert_eq!(container(b"A=1\0CNI_COMMAND=ADD\0CNI_CONTAINERID=abc\0"), Some("abc"));
        assert_eq!(container(b"CNI_CONTAINERID=abc\0"), None);
        assert_eq!(container(b"CNI_COMMAND=ADD\0CNI_CONTAINERID=\xff\0"), None);
        assert_eq!(container(b""), None);
    }

    #[test]
    fn what_is_left_of_a_container_is_killed_and_nobody_else() {
        let sleep = |id: &str| {
            let mut command = std::process::Command::new("sleep");
            command.arg("1000").env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", id).spawn().unwrap()
        };
        let (mut ours, mut other) = (sleep("orphans-test-1"), sleep("orphans-test-2"));
        let reaper = std::thread::spawn(move || ours.wait().unwrap().success());
        kill_left(Path::new("/proc"), &BTreeSet::from(["orphans-test-1".to_owned()]));
        assert!(!reaper.join().unwrap());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
