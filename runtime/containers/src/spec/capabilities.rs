//! A container's capabilities, by containerd's rules.
use std::collections::BTreeSet;

use machine::cri::Capability;

/// What a container has when nothing is said.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All, in the kernel's order.
pub const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The sets of a process. Inheritable is empty but for ambient ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    /// Bounding, permitted and effective.
    pub granted: BTreeSet<String>,
    /// Ambient and inheritable.
    pub ambient: BTreeSet<String>,
}

/// The capabilities that can be given at all: those the kernel knows and this process may pass on. `ALL` stands for them.
pub fn available() -> BTreeSet<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    in_mask(status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default())
}

fn in_mask(hex: &str) -> BTreeSet<String> {
    let mask = u64::from_str_radix(hex.trim(), 16).unwrap_or(u64::MAX);
    let numbered = ALL.iter().enumerate().filter(|(number, _)| mask >> number & 1 == 1);
    numbered.map(|(_, name)| (*name).to_owned()).collect()
}

/// Adds and drops; `ALL` first, single names after, dropping last. `all` is what `ALL` stands for.
///
/// # Errors
/// The name of a capability that does not exist.
pub fn decide(
    request: Option<&Capability>,
    privileged: bool,
    all: &BTreeSet<String>,
) -> Result<Sets, String> {
    if privileged {
        return Ok(Sets { granted: all.clone(), ambient: BTreeSet::new() });
    }
    let mut granted: BTreeSet<String> = DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    let Some(request) = request else { return Ok(Sets { granted, ambient: BTreeSet::new() }) };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if request.add_capabilities.iter().any(is_all) {
        granted.clone_from(all);
    }
    if request.drop_capabilities.iter().any(is_all) {
        granted.clear();
    }
    for name in request.add_capabilities.iter().filter(|name| !is_all(name)) {
        granted.insert(full_name(name)?);
    }
    for name in request.drop_capabilities.iter().filter(|name| !is_all(name)) {
        // A kernel that does not know a capability has nothing to drop.
        if let Ok(name) = full_name(name) {
            granted.remove(&name);
        }
    }
    let mut ambient = BTreeSet::new();
    for name in &request.add_ambient_capabilities {
        let name = full_name(name)?;
        granted.insert(name.clone());
        ambient.insert(name);
    }
    Ok(Sets { granted, ambient })
}

fn full_name(name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if ALL.contains(&full.as_str()) { Ok(full) } else { Err(name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(add: &[&str], drop: &[&str]) -> Capability {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Capability { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Capability::default() }
    }

    #[test]
    fn drop_all_leaves_what_is_added_by_name() {
        let sets = decide(Some(&request(&["NET_BIND_SERVICE"], &["ALL"])), false, &in_mask("")).unwrap();
        assert_eq!(sets.granted, BTreeSet::from(["CAP_NET_BIND_SERVICE".to_owned()]));
    }

    #[test]
    fn a_mask_counts_in_the_kernels_order() {
        assert_eq!(in_mask("\t0000000000000021\n"), BTreeSet::from(["CAP_CHOWN".into(), "CAP_KILL".into()]));
        assert_eq!(in_mask("").len(), ALL.len());
    }

    #[test]
    fn add_all_without_one() {
        let sets = decide(Some(&request(&["all"], &["SYS_ADMIN"])), false, &in_mask("")).unwrap();
        assert_eq!(sets.granted.len(), ALL.len() - 1);
        assert_eq!(decide(Some(&request(&["NO_SUCH"], &[])), false, &in_mask("")), Err("NO_SUCH".into()));
    }
}
