//! The cgroup tree of the node.
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::HOST;

/// Settings that a pod's resources decide.
const FILES: [&str; 9] = [
    "cpu.max",
    "cpu.weight",
    "memory.max",
    "memory.high",
    "memory.min",
    "memory.low",
    "memory.swap.max",
    "memory.oom.group",
    "pids.max",
];

/// The node's cgroup file system.
pub fn root() -> PathBuf {
    Path::new(HOST).join("sys/fs/cgroup")
}

/// All cgroups at and below `top`, by their path from the root, such as `/kubepods/burstable`.
pub fn below(top: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![top.trim_end_matches('/').to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(path.trim_start_matches('/'))) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(format!("{path}/{}", entry.file_name().to_string_lossy()));
            }
        }
        found.push(path);
    }
    found.sort();
    found
}

/// The cgroup of every process. Read from the tree: `/proc/<pid>/cgroup` is relative to the reader's own cgroup namespace.
pub fn by_process() -> HashMap<i32, String> {
    let mut cgroups = HashMap::new();
    for path in below("") {
        let file = root().join(path.trim_start_matches('/')).join("cgroup.procs");
        let processes = std::fs::read_to_string(file).unwrap_or_default();
        cgroups.extend(processes.lines().filter_map(|pid| Some((pid.parse().ok()?, path.clone()))));
    }
    cgroups
}

/// Settings of a pod's cgroup and those below it, by path.
pub fn of_pod(uid: &str) -> Result<Value> {
    let name = format!("pod{uid}");
    let all = below("/kubepods");
    let Some(top) = all.iter().find(|path| path.ends_with(&name)) else { bail!("no cgroup {name}") };
    let mut cgroups = Map::new();
    for path in all.iter().filter(|path| path.starts_with(top.as_str())) {
        let folder = root().join(path.trim_start_matches('/'));
        let settings: Map<String, Value> = FILES
            .iter()
            .filter_map(|name| Some((*name, std::fs::read_to_string(folder.join(name)).ok()?)))
            .map(|(name, text)| (name.to_owned(), text.trim().into()))
            .collect();
        cgroups.insert(path.clone(), settings.into());
    }
    serde_json::to_value(cgroups).context("settings as JSON")
}
