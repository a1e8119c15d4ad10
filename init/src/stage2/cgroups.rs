//! The top of the cgroup tree: `init` for PID 1, `system/<service>`, `runtime`; `kubepods` is the agent's.
use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the tree, moves PID 1 into its leaf, and hands every controller down.
pub fn prepare() {
    let root = Path::new(ROOT);
    for name in ["init", "system", "runtime"] {
        if let Err(error) = fs::create_dir_all(root.join(name)) {
            tracing::error!("create cgroup {name}: {error}");
        }
    }
    // A cgroup that hands controllers down may hold no processes (other than the root).
    if let Err(error) = fs::write(root.join("init/cgroup.procs"), "1") {
        tracing::error!("move PID 1 to its cgroup: {error}");
    }
    for folder in [root.to_path_buf(), root.join("system")] {
        hand_down(&folder);
    }
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
