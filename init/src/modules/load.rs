//! Loading modules from a tree under /lib/modules.
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Index;
use crate::bounded;

/// How long one driver may take: controllers with many disks take half a minute.
const DEADLINE: Duration = Duration::from_secs(60);

/// The modules of the running kernel and which of them this process has loaded.
#[derive(Debug)]
pub struct Modules {
    root: PathBuf,
    loaded: HashSet<String>,
}

impl Modules {
    /// Modules below `/lib/modules/<release>`.
    pub fn of_running_kernel() -> Self {
        Self { root: Path::new("/lib/modules").join(release()), loaded: HashSet::new() }
    }

    /// Loads everything that the names, aliases and device aliases stand for. What no module stands for is built in or absent
    /// and passed over. Returns what could not be loaded and why.
    pub fn load(&mut self, wanted: &[String]) -> Vec<(String, io::Error)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let read = |name| fs::read_to_string(self.root.join(name)).unwrap_or_default();
        let index = Index::new(&read("modules.dep"), read("modules.alias"), &read("modules.softdep"));
        let mut files = Vec::new();
        for module in index.resolve(wanted) {
            for file in index.files(&module) {
                if self.loaded.insert(file.clone()) {
                    files.push(file);
                }
            }
        }
        let root = self.root.clone();
        load_each(files, DEADLINE, move |file| sys::module::load(&root.join(file)))
    }
}

/// Loads each in order. A driver that hangs keeps a thread, and its devices; the others have theirs.
fn load_each(
    files: Vec<String>,
    deadline: Duration,
    load: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static,
) -> Vec<(String, io::Error)> {
    let results = bounded::each(files.clone(), deadline, move |file: String| load(&file));
    let failed = files.into_iter().zip(results).filter_map(|(file, result)| match result {
        Some(Ok(())) => None,
        // No such hardware after all: drivers say so when they are loaded on an alias that is too wide.
        Some(Err(error)) if error.raw_os_error() == Some(nix::libc::ENODEV) => None,
        Some(Err(error)) => Some((file, error)),
        None => {
            let text = format!("not done after {} s, the kernel is still at it", deadline.as_secs());
            Some((file, io::Error::new(io::ErrorKind::TimedOut, text)))
        }
    });
    failed.collect()
}

/// The running kernel's release, such as `6.12.117+deb12-amd64`.
pub fn release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The device aliases of every device that sysfs shows now.
pub fn device_aliases() -> Vec<String> {
    let mut found = HashSet::new();
    collect(Path::new("/sys/devices"), 0, &mut found);
    found.into_iter().collect()
}

fn collect(folder: &Path, depth: usize, found: &mut HashSet<String>) {
    // Device trees nest a dozen deep at most.
    if depth > 32 {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            collect(&entry.path(), depth + 1, found);
        } else if entry.file_name() == "modalias"
            && let Ok(alias) = fs::read_to_string(entry.path())
        {
            found.insert(alias.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_hangs_keeps_nobody_from_the_others() {
        let load = |file: &str| match file {
            "hangs.ko" => {
                std::thread::park();
                Ok(())
            }
            "absent.ko" => Err(io::Error::from_raw_os_error(nix::libc::ENODEV)),
            "broken.ko" => Err(io::Error::from_raw_os_error(nix::libc::ENOEXEC)),
            _ => Ok(()),
        };
        let files = ["hangs.ko", "absent.ko", "broken.ko", "disk.ko"].map(String::from).to_vec();
        let failures = load_each(files, Duration::from_millis(100), load);
        let names: Vec<_> = failures.iter().map(|(file, error)| (file.as_str(), error.kind())).collect();
        assert_eq!(names[0], ("hangs.ko", io::ErrorKind::TimedOut));
        assert_eq!((names.len(), names[1].0), (2, "broken.ko"));
    }
}
