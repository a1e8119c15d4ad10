//! What makes this machine itself and sane: its id, randomness, clock and limits.
use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use machine::paths;
use nix::sys::resource::{Resource, setrlimit};

use crate::config::write_atomically;

const MACHINE_ID: &str = "/var/lib/pintle/init/machine-id";
const MACHINE_ID_LINK_TARGET: &str = "/run/pintle/etc/machine-id";
const SEED: &str = "/var/lib/pintle/init/random-seed";
/// Certificates made by this build are not valid before it; a clock before it is wrong. The builder sets SOURCE_DATE_EPOCH.
const BUILT: Option<&str> = option_env!("SOURCE_DATE_EPOCH");
/// 2026-01-01, before which this code was not written.
const WRITTEN: u64 = 1_767_225_600;

/// Descriptors and processes for PID 1 and, inherited, for services.
pub fn raise_limits() {
    for (resource, soft, hard) in
        [(Resource::RLIMIT_NOFILE, 1 << 20, 1 << 20), (Resource::RLIMIT_NPROC, 1 << 22, 1 << 22)]
    {
        if let Err(error) = setrlimit(resource, soft, hard) {
            tracing::warn!("raise {resource:?}: {error}");
        }
    }
}

/// Brings a clock that stands before the build forward to it; time synchronisation does the rest.
pub fn correct_clock() {
    let built = BUILT.and_then(|text| text.parse().ok()).unwrap_or(WRITTEN);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now >= Duration::from_secs(built) {
        return;
    }
    let time = nix::sys::time::TimeSpec::new(built as i64, 0);
    match nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time) {
        Ok(()) => tracing::warn!("the clock stood before this build; it now stands at the build"),
        Err(error) => tracing::warn!("correct the clock: {error}"),
    }
}

/// Nothing that needs random numbers starts before the kernel has some.
pub fn wait_for_entropy() {
    let started = std::time::Instant::now();
    match sys::entropy::is_ready() {
        Ok(true) => return,
        Ok(false) => tracing::info!("gathering entropy: the kernel has no source of random numbers yet"),
        Err(error) => tracing::warn!("ask for random numbers: {error}"),
    }
    match sys::entropy::wait() {
        Ok(()) => tracing::info!("entropy gathered after {:.1} s", started.elapsed().as_secs_f64()),
        Err(error) => tracing::warn!("wait for random numbers: {error}"),
    }
}

/// A machine id for this boot, until [`restore`] finds the lasting one.
pub fn early_machine_id() -> Result<()> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    write_atomically(MACHINE_ID_LINK_TARGET, format!("{id}\n").as_bytes(), 0o444)
}

/// Takes machine id and random seed from the state volume, and leaves new ones there when there are none. It blocks.
///
/// # Errors
/// When the state volume cannot be written.
pub fn restore() -> Result<()> {
    let kept = fs::read_to_string(MACHINE_ID).ok().filter(|id| is_machine_id(id.trim()));
    let id = match kept {
        Some(id) => id.trim().to_owned(),
        None => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            write_atomically(MACHINE_ID, format!("{id}\n").as_bytes(), 0o444)?;
            id
        }
    };
    write_atomically(MACHINE_ID_LINK_TARGET, format!("{id}\n").as_bytes(), 0o444)?;
    if let Ok(seed) = fs::read(SEED) {
        // Used once: a seed that comes back after a power cut would make two boots alike.
        fs::remove_file(SEED).context("remove the used random seed")?;
        File::open(paths::INIT_STATE)?.sync_all()?;
        sys::entropy::credit(&seed).context("give the random seed back")?;
    }
    save_seed()
}

/// Keeps fresh randomness for the next boot. It blocks.
///
/// # Errors
/// When the state volume is not mounted or cannot be written.
pub fn save_seed() -> Result<()> {
    if !std::path::Path::new(paths::INIT_STATE).is_dir() {
        return Ok(());
    }
    let mut seed = vec![0; sys::entropy::SEED];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    write_atomically(SEED, &seed, 0o600)
}

fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}
