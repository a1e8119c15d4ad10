use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::cpu::shares_of_weight;
use super::node::NodeFacts;
use super::pod::{CgroupConfig, besteffort_tier, burstable_tier, pod_config};
use super::qos::pod_cgroup;

/// How long a killed cgroup gets to empty itself.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// A cgroup file or directory that could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} still has processes {} s after all of them were killed", EMPTY_WITHIN.as_secs())]
    Busy { path: String },
}

/// The pods' part of the cgroup2 tree. Made once; all calls are cheap file writes except [`CgroupTree::remove_pod`], which waits for
/// killed processes to end.
#[derive(Debug, Clone)]
pub struct CgroupTree {
    root: PathBuf,
    node: NodeFacts,
}

impl CgroupTree {
    /// `root` is the cgroup2 mount, `/sys/fs/cgroup` on a node.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, node: NodeFacts) -> Self {
        Self { root: root.into(), node }
    }

    /// What is known of the node.
    #[must_use]
    pub fn node(&self) -> &NodeFacts {
        &self.node
    }

    /// Makes `/kubepods` and its two tiers and sets their limits; safe to repeat.
    ///
    /// # Errors
    /// When a directory cannot be made or a limit is refused.
    pub fn ensure_tiers(&self, kubepods: &CgroupConfig) -> Result<(), CgroupError> {
        let top = self.root.join("kubepods");
        self.enable_controllers(&self.root)?;
        self.ensure(&top, kubepods)?;
        self.enable_controllers(&top)?;
        for (tier, config) in
            [("burstable", burstable_tier([], &self.node)), ("besteffort", besteffort_tier(&self.node))]
        {
            let path = top.join(tier);
            if !path.exists() {
                self.ensure(&path, &config)?;
            }
            self.enable_controllers(&path)?;
        }
        Ok(())
    }

    /// Weighs the burstable tier by the pods that are active now.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn refresh_tiers<'a>(&self, active: impl IntoIterator<Item = &'a Pod>) -> Result<(), CgroupError> {
        self.write(&self.root.join("kubepods/burstable"), &burstable_tier(active, &self.node))?;
        self.write(&self.root.join("kubepods/besteffort"), &besteffort_tier(&self.node))
    }

    /// Makes the pod's cgroup and sets its limits; also the way to resize it.
    ///
    /// # Errors
    /// When the directory cannot be made or a limit is refused.
    pub fn ensure_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        let path = pod_cgroup(&self.root, pod);
        self.ensure(&path, &pod_config(pod, &self.node))?;
        self.enable_controllers(&path)
    }

    /// Writes a part of a pod's limits.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn write_pod(&self, pod: &Pod, part: &CgroupConfig) -> Result<(), CgroupError> {
        self.write(&pod_cgroup(&self.root, pod), part)
    }

    /// The pod's limits of CPU and memory as the kernel has them; the shares are those that give the kernel's weight.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_pod(&self, pod: &Pod) -> Result<CgroupConfig, CgroupError> {
        let path = pod_cgroup(&self.root, pod);
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(|error| failed("read", &file, error))
        };
        let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
        let weight = number(&read("cpu.weight")?).unwrap_or(1).unsigned_abs();
        Ok(CgroupConfig {
            cpu_shares: Some(shares_of_weight(weight)),
            // "max" is no number, and no limit.
            cpu_quota: Some(number(&read("cpu.max")?).unwrap_or(0)),
            memory_max: Some(number(&read("memory.max")?).unwrap_or(0)),
            ..CgroupConfig::default()
        })
    }

    /// Bytes of memory that the pod uses.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn pod_memory(&self, pod: &Pod) -> Result<i64, CgroupError> {
        let file = pod_cgroup(&self.root, pod).join("memory.current");
        let text = std::fs::read_to_string(&file).map_err(|error| failed("read", &file, error))?;
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// The uids of the pods that have a cgroup.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<String> {
        let tiers = ["kubepods", "kubepods/burstable", "kubepods/besteffort"];
        let entries =
            tiers.iter().flat_map(|tier| std::fs::read_dir(self.root.join(tier)).into_iter().flatten());
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned))
            .collect()
    }

    /// Kills whatever is left in the pod's cgroup and removes it with everything below; no error when there is none.
    ///
    /// # Errors
    /// When processes do not end in ten seconds, or a directory cannot be removed.
    pub async fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        for tier in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            let path = self.root.join(tier).join(format!("pod{uid}"));
            if path.is_dir() {
                remove(&path).await?;
            }
        }
        Ok(())
    }

    fn ensure(&self, path: &Path, config: &CgroupConfig) -> Result<(), CgroupError> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", path, error)),
            _ => self.write(path, config),
        }
    }

    /// Writes each limit that differs from what the kernel has.
    fn write(&self, path: &Path, config: &CgroupConfig) -> Result<(), CgroupError> {
        for (name, value) in config.files() {
            let file = path.join(&name);
            let current = match std::fs::read_to_string(&file) {
                // A kernel without the controller; the kubelet leaves these out too.
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_optional(&name) => continue,
                Err(error) => return Err(failed("read", &file, error)),
                Ok(current) => current,
            };
            if current.trim() != value {
                std::fs::write(&file, &value).map_err(|error| failed("write", &file, error))?;
            }
        }
        Ok(())
    }

    fn enable_controllers(&self, path: &Path) -> Result<(), CgroupError> {
        let file = path.join("cgroup.subtree_control");
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(|error| failed("read", &file, error))
        };
        let (available, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for controller in CONTROLLERS {
            if has(&available, controller) && !has(&enabled, controller) {
                std::fs::write(&file, format!("+{controller}"))
                    .map_err(|error| failed("write", &file, error))?;
            }
        }
        Ok(())
    }
}

fn is_optional(file: &str) -> bool {
    file.starts_with("hugetlb.") || file.starts_with("memory.swap.")
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { action, path: path.display().to_string(), source }
}

/// Kills, waits until the kernel says that the cgroup is empty, and removes it bottom up.
async fn remove(path: &Path) -> Result<(), CgroupError> {
    let kill = path.join("cgroup.kill");
    match std::fs::write(&kill, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("write", &kill, error)),
        _ => {}
    }
    let deadline = tokio::time::Instant::now() + EMPTY_WITHIN;
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(CgroupError::Io { source, .. })
                if source.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) =>
            {
                if tokio::time::Instant::now() >= deadline {
                    return Err(CgroupError::Busy { path: path.display().to_string() });
                }
                // Killed tasks leave the cgroup when they have exited, and cgroup.events tells of the last process only, not of
                // a dying child cgroup; ten milliseconds is what that takes.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", path, error)),
        Ok(entries) => entries,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}
