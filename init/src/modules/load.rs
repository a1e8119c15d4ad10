//! Loading modules from a tree under /lib/modules.
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Index;

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
        let mut failures = Vec::new();
        if wanted.is_empty() {
            return failures;
        }
        let read = |name| fs::read_to_string(self.root.join(name)).unwrap_or_default();
        let index = Index::new(&read("modules.dep"), read("modules.alias"), &read("modules.softdep"));
        for module in index.resolve(wanted) {
            for file in index.files(&module) {
                if self.loaded.contains(&file) {
                    continue;
                }
                match sys::module::load(&self.root.join(&file)) {
                    Ok(()) => {}
                    // No such hardware after all: drivers say so when they are loaded on an alias that is too wide.
                    Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => {}
                    Err(e) => failures.push((file.clone(), e)),
                }
                self.loaded.insert(file);
            }
        }
        failures
    }
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
