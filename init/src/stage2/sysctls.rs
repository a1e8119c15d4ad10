//! Kernel parameters: what Kubernetes' node expects, and what the machine config says.
use std::fs;
use std::path::PathBuf;

use machine::config::Sysctl;

/// The kubelet's kernel defaults (`--protect-kernel-defaults`), routing for pods, and limits that a full node meets.
const DEFAULTS: [(&str, &str); 22] = [
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    ("vm.max_map_count", "262144"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
    ("kernel.pid_max", "4194304"),
    ("kernel.core_pattern", "|/bin/false"),
    ("kernel.kptr_restrict", "1"),
    ("kernel.dmesg_restrict", "1"),
    ("kernel.unprivileged_bpf_disabled", "1"),
    ("fs.inotify.max_user_instances", "8192"),
    ("fs.inotify.max_user_watches", "524288"),
    ("fs.protected_symlinks", "1"),
    ("fs.protected_hardlinks", "1"),
    ("fs.file-max", "9223372036854775807"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.netfilter.nf_conntrack_max", "262144"),
];

/// Parameters that exist once br_netfilter is loaded.
const BRIDGE: [(&str, &str); 2] =
    [("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")];

/// Sets the defaults that need no module.
pub fn apply_defaults() {
    for (name, value) in DEFAULTS {
        set(name, value, true);
    }
}

/// Sets what modules have brought.
pub fn apply_late_defaults() {
    for (name, value) in DEFAULTS.iter().filter(|(name, _)| name.contains("conntrack")).chain(&BRIDGE) {
        set(name, value, false);
    }
}

/// Sets the machine config's parameters over the defaults.
pub fn apply(documents: &[Sysctl]) {
    for (name, value) in documents.iter().flat_map(|d| &d.values) {
        set(name, value, false);
    }
}

fn set(name: &str, value: &str, optional: bool) {
    let Some(path) = path(name) else {
        tracing::warn!("sysctl {name} is no name of a kernel parameter");
        return;
    };
    match fs::write(&path, value) {
        Ok(()) => {}
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("sysctl {name}={value}: {error}"),
    }
}

/// Below /proc/sys and nowhere else. As in sysctl(8), the first separator decides: with dots as separators a slash stands for a dot.
fn path(name: &str) -> Option<PathBuf> {
    let dotted = name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] == b'.');
    let relative: String = if dotted {
        name.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    } else {
        name.to_owned()
    };
    let sane = relative.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sane.then(|| PathBuf::from("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_below_proc_sys_only() {
        let expect =
            |name: &str, path_text: &str| assert_eq!(path(name), Some(PathBuf::from(path_text)), "{name}");
        expect("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward");
        expect("net.ipv4.conf.eth0/1.rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
        expect("net/ipv4/conf/eth0.1/rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
        for bad in ["", "../../etc/passwd", "/etc/passwd", "net..x", "a/../b"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
