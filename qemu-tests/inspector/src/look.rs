//! What there is on the node: everything that a pod could leave behind.
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{HOST, cgroups, processes};

/// Folders that hold a pod's files, and how deep they are listed.
const FOLDERS: [(&str, usize); 6] = [
    ("run/pintle/runtime", 4),
    ("run/netns", 1),
    ("var/lib/kubelet/pods", 1),
    ("var/log/pods", 1),
    ("var/log/containers", 1),
    ("var/lib/pintle/runtime", 2),
];

/// Processes, mounts of PID 1, network namespaces, cgroups, links, nftables rules and files.
pub fn snapshot() -> Result<Value> {
    let mounts = mounts(&std::fs::read_to_string("/proc/1/mountinfo").context("read PID 1's mounts")?);
    let mut cgroups = cgroups::below("/kubepods");
    cgroups.extend(cgroups::below("/runtime"));
    let mut folders = serde_json::Map::new();
    for (path, depth) in FOLDERS {
        let mut names = Vec::new();
        list(&Path::new(HOST).join(path), "", depth, &mut names);
        names.sort();
        folders.insert(format!("/{path}"), names.into());
    }
    let mut links = names_in("/sys/class/net");
    links.sort();
    Ok(json!({
        "processes": processes::all()?,
        "networkNamespaces": namespaces(&mounts),
        "mounts": mounts,
        "cgroups": cgroups,
        "links": links,
        "rules": rules()?,
        "folders": folders,
    }))
}

/// `target type source root` of each mount.
fn mounts(mountinfo: &str) -> Vec<String> {
    let mut mounts: Vec<String> = mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            Some(format!("{} {} {} {}", left.get(4)?, right.first()?, right.get(1)?, left.get(3)?))
        })
        .collect();
    mounts.sort();
    mounts
}

/// Network namespaces that a process is in or that are pinned by a mount.
fn namespaces(mounts: &[String]) -> BTreeSet<String> {
    let used = names_in("/proc")
        .into_iter()
        .filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned());
    let pinned = mounts
        .iter()
        .filter(|mount| mount.contains(" nsfs "))
        .filter_map(|mount| mount.split(' ').find(|word| word.starts_with("net:")))
        .map(str::to_owned);
    used.chain(pinned).collect()
}

/// The rules without counters, sorted: the order of a set's elements is the kernel's.
fn rules() -> Result<Vec<String>> {
    let done = Command::new("/proc/self/exe").arg("rules").output().context("run the node's nft")?;
    ensure!(done.status.success(), "nft failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    let mut lines: Vec<String> =
        String::from_utf8_lossy(&done.stdout).lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    Ok(lines)
}

/// Becomes the node's own nft; returns only when that fails.
pub fn exec_nft() -> anyhow::Error {
    if let Err(fault) = std::os::unix::fs::chroot(HOST).and_then(|()| std::env::set_current_dir("/")) {
        return anyhow::Error::new(fault).context("enter the node's root");
    }
    let fault = Command::new("/usr/sbin/nft").args(["--stateless", "list", "ruleset"]).exec();
    anyhow::Error::new(fault).context("run the node's nft")
}

fn list(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), &format!("{name}/"), depth - 1, names);
        }
        names.push(name);
    }
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_shows_where_what_and_which_part() {
        let line = "36 35 0:4 net:[4026532000] /run/x/net rw shared:1 - nsfs nsfs rw";
        let mounts = mounts(line);
        assert_eq!(mounts, ["/run/x/net nsfs nsfs net:[4026532000]"]);
        assert!(namespaces(&mounts).contains("net:[4026532000]"));
    }
}
