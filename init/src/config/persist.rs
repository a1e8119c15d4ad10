//! Writing configs so that a power cut leaves the old or the new one.
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use machine::config::Role;
use machine::paths;
use node_kit::files::{self, Durability};

use crate::node::{ActiveConfig, Machine};

/// Replaces a file: all of it is on disk under its name when this returns. Its folder is made where it is missing.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn write_atomically(path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    replace(Path::new(path), bytes, mode, || true)
}

/// As [`write_atomically`]; `commits` is asked, when all is on disk, whether the file takes its name.
fn replace(path: &Path, bytes: &[u8], mode: u32, commits: impl FnOnce() -> bool) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    files::make_folder(folder, 0o755)?;
    let commits = |_: &fs::File| {
        if commits() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, "it was given up")) }
    };
    Ok(files::replace_if(path, bytes, mode, Durability::PowerCut, commits)?)
}

/// A file's replacement that somebody waits for: either it is given up and the old file stays, or it happens, however long it takes.
#[derive(Debug, Clone, Default)]
pub struct Attempt(Arc<AtomicU8>);

impl Attempt {
    const WRITES: u8 = 0;
    const COMMITS: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// From here on the new file takes its name; false when it must not any more.
    pub fn commits(&self) -> bool {
        self.decide(Self::COMMITS)
    }

    /// Nobody waits any more. True: the old file stays for certain.
    pub fn give_up(&self) -> bool {
        self.decide(Self::GIVEN_UP)
    }

    fn decide(&self, end: u8) -> bool {
        self.0.compare_exchange(Self::WRITES, end, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The config that was there before the last [`keep`].
pub const PREVIOUS: &str = "/var/lib/pintle/init/config.previous.yaml";

/// Whoever keeps a config has the place to itself: the config before is the one before.
static KEEPING: Mutex<()> = Mutex::new(());

/// Keeps a config on the state volume, and the one before beside it, unless the attempt is given up meanwhile. It blocks.
///
/// # Errors
/// As [`write_atomically`].
pub fn keep(yaml: &str, attempt: &Attempt) -> Result<()> {
    let _alone = KEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    keep_at(Path::new(paths::STATE_CONFIG), Path::new(PREVIOUS), yaml, attempt)
}

fn keep_at(place: &Path, previous: &Path, yaml: &str, attempt: &Attempt) -> Result<()> {
    let old = fs::read(place).ok();
    if old.as_deref() == Some(yaml.as_bytes()) {
        return Ok(());
    }
    let commits = || {
        let commits = attempt.commits();
        if commits && old.is_some() {
            // A second name for the old file: no moment is without a config, and a full disk loses none.
            let _ = fs::remove_file(previous);
            if let Err(error) = fs::hard_link(place, previous) {
                tracing::warn!("keep the config before as {}: {error}", previous.display());
            }
        }
        commits
    };
    replace(place, yaml.as_bytes(), 0o600, commits)
}

/// Keeps a config that came from elsewhere, unless the state volume has one: only an apply replaces that, even one that no longer parses.
/// False: there was one that differs. It blocks.
///
/// # Errors
/// As [`write_atomically`].
pub fn keep_first(yaml: &str) -> Result<bool> {
    let _alone = KEEPING.lock().unwrap_or_else(PoisonError::into_inner);
    match fs::read(paths::STATE_CONFIG) {
        Ok(kept) => Ok(kept == yaml.as_bytes()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (place, previous) = (Path::new(paths::STATE_CONFIG), Path::new(PREVIOUS));
            keep_at(place, previous, yaml, &Attempt::default()).map(|()| true)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", paths::STATE_CONFIG)),
    }
}

/// Makes a config the active one: for services in /run/pintle/config.yaml, for init's own tasks in the watch channel.
///
/// # Errors
/// When /run cannot be written.
pub fn activate(machine: &Machine, active: Arc<ActiveConfig>) -> Result<()> {
    write_atomically(paths::ACTIVE_CONFIG, active.yaml.as_bytes(), 0o600)?;
    let own = &active.config.machine;
    machine.supervisor.set_facts(|facts| {
        facts.configured = true;
        facts.machine_ca = own.ca.is_some();
        facts.control_plane = own.role == Role::ControlPlane && active.config.cluster.is_some();
    });
    machine.condition("ConfigValid", true, "Applied", &format!("from {}", active.source));
    machine.events.note("init", "ConfigActive", &format!("machine config from {} is active", active.source));
    machine.config.send_replace(Some(active));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/config.yaml");
        let name = path.display().to_string();
        write_atomically(&name, b"old", 0o600).unwrap();
        write_atomically(&name, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn the_config_before_stays_beside_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (place, previous) = (folder.path().join("config.yaml"), folder.path().join("previous.yaml"));
        let read = |path: &Path| fs::read_to_string(path).ok();
        keep_at(&place, &previous, "one", &Attempt::default()).unwrap();
        assert_eq!((read(&place).as_deref(), read(&previous)), (Some("one"), None));
        keep_at(&place, &previous, "two", &Attempt::default()).unwrap();
        keep_at(&place, &previous, "two", &Attempt::default()).unwrap();
        assert_eq!((read(&place).as_deref(), read(&previous).as_deref()), (Some("two"), Some("one")));
        keep_at(&place, &previous, "three", &Attempt::default()).unwrap();
        assert_eq!(read(&previous).as_deref(), Some("two"));
    }

    #[test]
    fn what_is_given_up_in_time_is_not_kept_and_what_takes_its_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let (place, previous) = (folder.path().join("config.yaml"), folder.path().join("previous.yaml"));
        keep_at(&place, &previous, "one", &Attempt::default()).unwrap();
        let late = Attempt::default();
        assert!(late.give_up());
        assert!(keep_at(&place, &previous, "two", &late).is_err());
        assert_eq!(fs::read_to_string(&place).unwrap(), "one");
        let done = Attempt::default();
        keep_at(&place, &previous, "two", &done).unwrap();
        assert!(!done.give_up(), "it cannot be said any more that the old one stays");
        assert_eq!(fs::read_to_string(&place).unwrap(), "two");
    }
}
