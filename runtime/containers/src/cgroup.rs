//! A container's cgroup (cgroup v2): limits written before anything runs in it, killed and read as a whole.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::cri::LinuxContainerResources;

/// Where cgroup2 is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// How long a killed process may take to be gone.
pub const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Why a cgroup could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// One cgroup by its path below [`ROOT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

/// One file and what to write to it.
type Setting = (String, String);

/// What the resources are in cgroup v2's files, as runc writes them.
pub fn settings(resources: &LinuxContainerResources, creating: bool) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut set = |file: &str, value: String| settings.push((file.to_owned(), value));
    if resources.cpu_shares > 0 {
        set("cpu.weight", weight(resources.cpu_shares as u64).to_string());
    }
    if resources.cpu_quota != 0 || resources.cpu_period != 0 {
        let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".into() };
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        if resources.cpu_quota > 0 || !creating {
            set("cpu.max", format!("{quota} {period}"));
        }
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset.mems", resources.cpuset_mems.clone());
    }
    let limit = resources.memory_limit_in_bytes;
    if limit != 0 {
        set("memory.max", if limit > 0 { limit.to_string() } else { "max".into() });
    }
    // CRI counts memory and swap together; cgroup v2 counts swap alone.
    let with_swap = resources.memory_swap_limit_in_bytes;
    if with_swap < 0 {
        set("memory.swap.max", "max".into());
    } else if with_swap > 0 && limit > 0 {
        set("memory.swap.max", (with_swap - limit).max(0).to_string());
    }
    for page in &resources.hugepage_limits {
        set(&format!("hugetlb.{}.max", page.page_size), page.limit.to_string());
    }
    let mut unified: Vec<_> = resources.unified.iter().collect();
    unified.sort();
    for (file, value) in unified {
        // A name that is no plain file of the cgroup is nothing we write to.
        if file.contains('.') && !file.contains('/') && !file.starts_with("cgroup.") {
            settings.push((file.clone(), value.clone()));
        }
    }
    settings
}

/// cpu.shares (2 to 262144) as cpu.weight (1 to 10000), by the curve that runc and the kubelet use: 1024 shares are weight 100.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

impl Cgroup {
    /// `parent` as CRI gives it (absolute, below the root of the hierarchy) and the container's id.
    pub fn new(parent: &str, id: &str) -> Self {
        let below: PathBuf = Path::new(parent)
            .components()
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect();
        Self(below.join(id))
    }

    /// As OCI's `cgroupsPath` wants it.
    pub fn path(&self) -> PathBuf {
        Path::new("/").join(&self.0)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        Path::new(ROOT).join(&self.0)
    }

    /// Makes it, with every controller there is.
    ///
    /// # Errors
    /// When the kernel refuses the folder; on a host without cgroup v2 when it has no such folder at all.
    pub fn create(&self) -> Result<(), Error> {
        let mut folder = PathBuf::from(ROOT);
        for part in self.0.parent().into_iter().flat_map(Path::components) {
            enable_controllers(&folder);
            folder.push(part);
            make(&folder)?;
        }
        enable_controllers(&folder);
        make(&self.folder())
    }

    /// Writes limits.
    ///
    /// # Errors
    /// Names the file whose value the kernel refuses.
    pub fn write(&self, settings: &[Setting]) -> Result<(), Error> {
        for (file, value) in settings {
            let path = self.folder().join(file);
            match fs::write(&path, value) {
                Ok(()) => {}
                // No swap accounting or no controller: there is nothing to limit.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_limit(file) => {}
                Err(source) => return Err(Error { what: "set the limit", path, source }),
            }
        }
        Ok(())
    }

    /// Kills everything in it, at once.
    ///
    /// # Errors
    /// When the kernel refuses; a cgroup that is gone is no error.
    pub fn kill(&self) -> Result<(), Error> {
        let path = self.folder().join("cgroup.kill");
        match fs::write(&path, "1") {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error { what: "kill by", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Kills and removes it with everything below it, waiting at most `deadline` for the last process to be reaped.
    ///
    /// # Errors
    /// When processes are left (stuck in the kernel) or the kernel refuses.
    pub async fn remove(&self, deadline: Duration) -> Result<(), Error> {
        self.kill()?;
        let started = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match remove_tree(&self.folder()) {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(nix::libc::EBUSY) && started.elapsed() < deadline =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                    // For what has entered it since.
                    self.kill()?;
                }
                Err(source) => return Err(Error { what: "remove the cgroup", path: self.folder(), source }),
            }
        }
    }

    /// One file's content; empty when it is not there.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder().join(file)).unwrap_or_default()
    }

    /// How often the kernel's OOM killer took a process of it.
    pub fn oom_kills(&self) -> u64 {
        field(&self.read("memory.events"), "oom_kill").unwrap_or(0)
    }
}

/// The folder of the cgroup that a process is in: in a container that made cgroups of its own, the container's cgroup takes no processes.
pub fn of_process(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    Some(Cgroup::new(unified(&text)?, "").folder())
}

/// The path in cgroup v2, from /proc/PID/cgroup (cgroups(7)); none above what we see.
fn unified(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

/// The value of `name` in a flat keyed file.
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn is_limit(file: &str) -> bool {
    !file.starts_with("memory.swap") && !file.starts_with("hugetlb.")
}

fn make(folder: &Path) -> Result<(), Error> {
    match fs::create_dir(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error { what: "make the cgroup", path: folder.into(), source })
        }
        _ => Ok(()),
    }
}

/// Best effort: what is missing shows when a limit is set.
fn enable_controllers(folder: &Path) {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    let missing: Vec<String> = read("cgroup.controllers")
        .split_ascii_whitespace()
        .filter(|controller| !enabled.split_ascii_whitespace().any(|other| other == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    let file = folder.join("cgroup.subtree_control");
    // One write each costs as much as one for all, which fails when one does.
    if !missing.is_empty() && fs::write(&file, missing.join(" ")).is_err() {
        for controller in missing {
            let _ = fs::write(&file, controller);
        }
    }
}

/// Children before parents; containers may nest cgroups of their own, to a depth that the kernel bounds.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_the_weights_that_the_kubelet_writes() {
        assert_eq!([2, 102, 1024, 2048, 262_144].map(weight), [1, 17, 100, 174, 10_000]);
    }

    #[test]
    fn limits_become_files() {
        let resources = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 20,
            memory_swap_limit_in_bytes: 1 << 20,
            unified: [("memory.oom.group".to_owned(), "1".to_owned()), ("../x.y".to_owned(), "1".to_owned())]
                .into(),
            ..LinuxContainerResources::default()
        };
        let pairs: Vec<String> =
            settings(&resources, true).into_iter().map(|(file, value)| format!("{file}={value}")).collect();
        assert_eq!(
            pairs,
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "memory.max=1048576",
                "memory.swap.max=0",
                "memory.oom.group=1"
            ]
        );
    }

    #[test]
    fn the_cgroup_of_a_process_is_that_of_version_2() {
        assert_eq!(unified("4:cpu:/a\n0::/kubepods/pod1/c/app\n"), Some("/kubepods/pod1/c/app"));
        assert_eq!(unified("0::/../other\n"), None);
        assert!(of_process(std::process::id() as i32).is_none_or(|folder| folder.starts_with(ROOT)));
    }

    #[test]
    fn a_parent_cannot_leave_the_hierarchy() {
        assert_eq!(Cgroup::new("/kubepods/../../etc", "id").path(), Path::new("/kubepods/etc/id"));
    }
}
