//! What pods leave traces in, listed and compared.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use machine::paths::{RUNTIME_RUN, RUNTIME_STATE};

use crate::ring::{Outcome, Ring, check};

/// Where agents make the cgroups that containers' lie in.
const PODS: &str = "/sys/fs/cgroup/kubepods";
/// How long what goes on after an answer may take.
const SETTLE: Duration = Duration::from_secs(20);

/// Everything that there is of pods, each with how many there are of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces(BTreeMap<String, usize>);

impl Traces {
    /// What there is now.
    pub fn now(ring: &Ring) -> Self {
        let mut traces = Self::default();
        let runtime = ring.runtime.id();
        traces.add("mount", mounts());
        for folder in [RUNTIME_RUN, RUNTIME_STATE] {
            traces.add("file", below(Path::new(folder), &|_| true));
        }
        traces.add("cgroup", below(Path::new(PODS), &|path| path.is_dir()));
        traces.add("link", names(Path::new("/sys/class/net")));
        traces.add("process", processes());
        traces.add("nftables", ruleset());
        traces.add("descriptor of the runtime", descriptors(runtime));
        traces.add("exit that nobody acknowledged", vec![String::new(); ring.init.unacknowledged()]);
        traces.add("kept descriptors", vec![String::new(); ring.init.stored()]);
        traces
    }

    fn add(&mut self, kind: &str, names: Vec<String>) {
        for name in names {
            *self.0.entry(format!("{kind} {name}")).or_default() += 1;
        }
    }

    /// What came and what went since.
    fn differences(&self, now: &Self) -> Vec<String> {
        let of = |traces: &Self, name: &String| traces.0.get(name).copied().unwrap_or_default();
        let all = self.0.keys().chain(now.0.keys().filter(|name| !self.0.contains_key(*name)));
        all.filter(|name| of(self, name) != of(now, name))
            .map(|name| format!("{name}: {} before, {} now", of(self, name), of(now, name)))
            .collect()
    }

    /// Waits until everything is as it was.
    pub async fn come_back(&self, ring: &Ring) -> Outcome {
        let start = Instant::now();
        loop {
            let differences = self.differences(&Self::now(ring));
            if differences.is_empty() {
                return Ok(());
            }
            if start.elapsed() > SETTLE {
                return Err(differences.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Root, place and type of each mount.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| -> Option<String> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        Some(format!("{} {} {}", fields.next()?, fields.next()?, after.split(' ').next()?))
    };
    // A namespace's number is another one each time; where it is pinned counts.
    text.lines().filter_map(mount).map(|mount| mount.trim_start_matches(|c| c != ' ').to_owned()).collect()
}

fn below(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if wanted(&path) {
            found.push(path.display().to_string());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&path, wanted));
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Names of processes, those that nobody has reaped too.
fn processes() -> Vec<String> {
    let pids = names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
    pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Sockets come and go with clients, and a few device filters stay loaded until a process ends.
fn descriptors(pid: u32) -> Vec<String> {
    const FILTER: &str = "anon_inode:bpf-prog";
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let kinds = links.map(|link| link.to_string_lossy().split(":[").next().unwrap_or_default().to_owned());
    let (filters, mut others): (Vec<String>, Vec<String>) =
        kinds.filter(|kind| kind != "socket").partition(|kind| kind == FILTER);
    others.extend(filters.into_iter().skip(sys::device_filter::KEPT));
    others
}

fn ruleset() -> Vec<String> {
    let output = Command::new("nft").args(["list", "ruleset"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Nothing of any pod is there.
pub async fn nothing_remains(ring: &mut Ring) -> Outcome {
    let left: Vec<String> = mounts()
        .into_iter()
        .filter(|mount| mount.contains("/run/pintle/runtime/"))
        // The folder that keeps them private.
        .filter(|mount| !mount.contains(" /run/pintle/runtime/containers "))
        .filter(|mount| !mount.contains(" /run/pintle/runtime/pintle-launch "))
        .collect();
    check(left.is_empty(), left.join("\n"))?;
    for folder in ["sandboxes", "containers", "launch", "exec", "ns"] {
        let path = Path::new(RUNTIME_RUN).join(folder);
        let names = names(&path);
        check(names.is_empty(), format!("{}: {names:?}", path.display()))?;
    }
    for _ in 0..100 {
        if ring.init.unacknowledged() == 0 && ring.init.stored() <= 1 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!(
        "{} exits unacknowledged, {} descriptors kept",
        ring.init.unacknowledged(),
        ring.init.stored()
    ))
}
