//! The top of the cgroup tree: `init` for PID 1, `system/<service>`, `runtime`; `kubepods` is the agent's. What a node lives by comes before what runs on it.
use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;

/// What a part of the node has against the pods (Documentation/admin-guide/cgroup-v2.rst).
#[derive(Debug)]
struct Part {
    cgroup: &'static str,
    /// Of the processors, in units of what all pods together have.
    cpu: u64,
    /// Of the disks; pods have 100. The kernel keeps to it with BFQ or a cost model.
    io: u64,
    /// Memory that is not reclaimed for others, in bytes: what its services use on a node with pods.
    memory: u64,
}

/// PID 1 reaps, supervises and answers, a little at a time, and nothing else may be late for it. What runs in `runtime` pulls and unpacks images too: with
/// all processors wanted it has as much as the pods. 56 MiB are kept in all, and count only as far as they are used.
const PARTS: [Part; 3] = [
    Part { cgroup: "init", cpu: 4, io: 1000, memory: 8 * MIB },
    Part { cgroup: "system", cpu: 2, io: 500, memory: 32 * MIB },
    Part { cgroup: "runtime", cpu: 1, io: 200, memory: 16 * MIB },
];

/// Makes the tree, moves PID 1 into its leaf, and hands every controller down.
pub fn prepare() {
    let root = Path::new(ROOT);
    for part in &PARTS {
        if let Err(error) = fs::create_dir_all(root.join(part.cgroup)) {
            tracing::error!("create cgroup {}: {error}", part.cgroup);
        }
    }
    // A cgroup that hands controllers down may hold no processes (other than the root).
    if let Err(error) = fs::write(root.join("init/cgroup.procs"), "1") {
        tracing::error!("move PID 1 to its cgroup: {error}");
    }
    for folder in [root.to_path_buf(), root.join("system")] {
        hand_down(&folder);
    }
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    for (file, value) in PARTS.iter().flat_map(|part| shares(part, processors)) {
        match fs::write(root.join(&file), &value) {
            // A kernel without the controller.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("write {value:?} to {ROOT}/{file}: {error}"),
            Ok(()) => {}
        }
    }
}

/// Files and values for a part of a machine of so many processors.
fn shares(part: &Part, processors: u64) -> [(String, String); 3] {
    let Part { cgroup, cpu, io, memory } = part;
    let weight = (cpu * weight_of_pods(processors)).clamp(1, MOST_WEIGHT);
    [
        (format!("{cgroup}/cpu.weight"), weight.to_string()),
        (format!("{cgroup}/io.weight"), format!("default {io}")),
        (format!("{cgroup}/memory.min"), memory.to_string()),
    ]
}

/// The kernel's largest weight.
const MOST_WEIGHT: u64 = 10_000;

/// What the agent gives `kubepods` at most, when nothing is reserved: 1,024 shares a processor, drawn to weights as KEP-2254 does it.
const fn weight_of_pods(processors: u64) -> u64 {
    let shares = processors * 1024;
    let shares = if shares > 262_144 { 262_144 } else { shares };
    1 + (shares - 2) * (MOST_WEIGHT - 1) / 262_142
}

/// One write per controller: the kernel refuses all of a list when it refuses one.
fn hand_down(folder: &Path) {
    let available = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if let Err(error) = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::warn!("hand the {controller} controller down from {}: {error}", folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(cgroup: &str, file: &str, processors: u64) -> String {
        let part = PARTS.iter().find(|part| part.cgroup == cgroup).unwrap();
        let wanted = format!("{cgroup}/{file}");
        shares(part, processors).into_iter().find(|(name, _)| *name == wanted).unwrap().1
    }

    #[test]
    fn no_number_of_pods_has_more_of_the_processors_than_the_node_itself() {
        for processors in [1, 2, 16, 64] {
            let weight = |cgroup| value(cgroup, "cpu.weight", processors).parse::<u64>().unwrap();
            let pods = weight_of_pods(processors);
            assert!(weight("runtime") >= pods, "{processors}");
            assert!(
                weight("init") > weight("system") && weight("system") > weight("runtime"),
                "{processors}"
            );
        }
        assert_eq!([weight_of_pods(1), weight_of_pods(2), weight_of_pods(256)], [39, 79, 10_000]);
        assert_eq!(value("init", "cpu.weight", 512), "10000", "the kernel takes no more");
    }

    #[test]
    fn what_is_kept_of_the_memory_leaves_the_smallest_worker_to_its_pods() {
        assert_eq!(PARTS.iter().map(|part| part.memory).sum::<u64>(), 56 * MIB);
        assert_eq!(value("system", "io.weight", 2), "default 500");
        assert_eq!(value("system", "memory.min", 2), "33554432");
    }
}
