//! Kernel parameters: what Kubernetes' node expects, and what the machine config says.
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machine::config::Sysctl;

use crate::bounded;

/// The kubelet's kernel defaults (`--protect-kernel-defaults`), routing for pods, limits that a full node meets, and what a node without people on it
/// can do without: `kptr_restrict` stays 1, as what traces the kernel from privileged pods reads its symbols.
const DEFAULTS: [(&str, &str); 29] = [
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
    // A file or FIFO of another's in a folder like /tmp is not opened by who would have made it: root is not led to write to a pod's.
    ("fs.protected_fifos", "1"),
    ("fs.protected_regular", "2"),
    // A process reads memory of its children alone, unless it has CAP_SYS_PTRACE.
    ("kernel.yama.ptrace_scope", "1"),
    // For good, as far as this boot goes: no other kernel without the firmware.
    ("kernel.kexec_load_disabled", "1"),
    // As Debian's kernel has it: nothing without CAP_PERFMON.
    ("kernel.perf_event_paranoid", "3"),
    ("net.core.bpf_jit_harden", "1"),
    ("dev.tty.ldisc_autoload", "0"),
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

/// How long the kernel may take to take a value: one of `vm.nr_hugepages` moves memory about.
const DEADLINE: Duration = Duration::from_secs(5);

/// Parameters that are being set on a thread that did not come back.
static HANGING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A parameter and what it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    name: String,
    value: String,
    /// Not every kernel has it.
    optional: bool,
}

fn setting(name: &str, value: &str, optional: bool) -> Setting {
    Setting { name: name.into(), value: value.into(), optional }
}

/// Sets the defaults that need no module. It waits for each some seconds at most.
pub fn apply_defaults() {
    set_all(DEFAULTS.iter().map(|(name, value)| setting(name, value, true)).collect(), DEADLINE, set);
}

/// Sets what modules have brought. It blocks, as [`apply_defaults`].
pub fn apply_late_defaults() {
    let conntrack = DEFAULTS.iter().filter(|(name, _)| name.contains("conntrack"));
    let late = conntrack.chain(&BRIDGE).map(|(name, value)| setting(name, value, false));
    set_all(late.collect(), DEADLINE, set);
}

/// Sets the machine config's parameters over the defaults. It blocks, as [`apply_defaults`].
pub fn apply(documents: &[Sysctl]) {
    let wanted = documents.iter().flat_map(|document| &document.values);
    set_all(wanted.map(|(name, value)| setting(name, value, false)).collect(), DEADLINE, set);
}

/// Sets each in order. One that hangs keeps a thread, holds up none of the others, and is not set again before it is back.
fn set_all(settings: Vec<Setting>, deadline: Duration, set: fn(&Setting)) {
    let (waiting, free): (Vec<_>, Vec<_>) =
        settings.into_iter().partition(|setting| hanging().contains(&setting.name));
    for Setting { name, .. } in waiting {
        tracing::warn!("sysctl {name} is still being set to an earlier value");
    }
    let names: Vec<String> = free.iter().map(|setting| setting.name.clone()).collect();
    let results = bounded::each(free, deadline, move |setting: Setting| {
        hanging().insert(setting.name.clone());
        set(&setting);
        hanging().remove(&setting.name);
    });
    for (name, _) in names.iter().zip(results).filter(|(_, result)| result.is_none()) {
        tracing::warn!("sysctl {name} is not set after {} s; the kernel is still at it", deadline.as_secs());
    }
}

fn hanging() -> MutexGuard<'static, BTreeSet<String>> {
    HANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(Setting { name, value, optional }: &Setting) {
    let Some(path) = path(name) else {
        tracing::warn!("sysctl {name} is no name of a kernel parameter");
        return;
    };
    match fs::write(&path, value) {
        Ok(()) => {}
        Err(error) if *optional && error.kind() == std::io::ErrorKind::NotFound => {}
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
    use std::thread;

    #[test]
    fn a_parameter_that_hangs_holds_up_no_other_and_is_not_set_again() {
        static SET: Mutex<Vec<String>> = Mutex::new(Vec::new());
        fn set(setting: &Setting) {
            SET.lock().unwrap().push(setting.name.clone());
            if setting.name == "test.hangs" {
                thread::park();
            }
        }
        let settings =
            || ["test.first", "test.hangs", "test.last"].map(|name| setting(name, "1", false)).to_vec();
        for _ in 0..2 {
            set_all(settings(), Duration::from_millis(100), set);
        }
        let expected = ["test.first", "test.hangs", "test.last", "test.first", "test.last"];
        assert_eq!(*SET.lock().unwrap(), expected);
    }

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
