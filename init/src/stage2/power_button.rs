//! The power button (and QEMU's system_powerdown, which presses it).
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::node::{Machine, ShutdownRequest};

/// `struct input_event` on 64-bit machines.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Listens to every input device that has a power key, those that come included.
pub async fn obey(machine: Machine) -> Result<()> {
    let mut devices = machine.devices.subscribe();
    let mut open = HashSet::new();
    let (gone_sender, mut gone) = mpsc::channel::<PathBuf>(16);
    loop {
        for path in with_power_key() {
            if open.insert(path.clone()) {
                let (machine, gone) = (machine.clone(), gone_sender.clone());
                tokio::spawn(async move {
                    if let Err(error) = listen(&machine, &path).await {
                        tracing::debug!("{}: {error}", path.display());
                    }
                    let _ = gone.send(path).await;
                });
            }
        }
        tokio::select! {
            changed = devices.changed() => changed?,
            path = gone.recv() => { path.map(|p| open.remove(&p)); }
        }
    }
}

// AsyncFd::new is deprecated for types whose descriptor can change while registered; a File keeps its own.
#[allow(deprecated)]
async fn listen(machine: &Machine, path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let device: AsyncFd<File> = AsyncFd::new(file)?;
    let mut events = [0_u8; EVENT * 16];
    loop {
        let mut ready = device.readable().await?;
        let read = ready.try_io(|inner| {
            let mut file: &File = inner.get_ref();
            file.read(&mut events)
        });
        let Ok(count) = read else { continue };
        let count = count?;
        if count == 0 {
            return Ok(());
        }
        if events[..count].chunks_exact(EVENT).any(is_power_press) {
            let reason = "the power button was pressed".into();
            let _ = machine.shutdown.try_send(ShutdownRequest { reboot: false, force: false, reason });
        }
    }
}

fn is_power_press(event: &[u8]) -> bool {
    let short = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    short(16) == EV_KEY && short(18) == KEY_POWER && event[20..24] == 1_i32.to_ne_bytes()
}

/// sysfs lists a device's keys as 64-bit words in hex, the highest first.
fn with_power_key() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/class/input") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter(|entry| {
            let keys = fs::read_to_string(entry.path().join("device/capabilities/key")).unwrap_or_default();
            has_key(&keys, KEY_POWER)
        })
        .map(|entry| Path::new("/dev/input").join(entry.file_name()))
        .collect()
}

fn has_key(words: &str, key: u16) -> bool {
    let word = words.split_whitespace().rev().nth(usize::from(key / 64));
    word.and_then(|w| u64::from_str_radix(w, 16).ok()).is_some_and(|w| w >> (key % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_key_is_found_in_the_capabilities_and_its_press_in_the_events() {
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(!has_key("0\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
        let mut event = [0; EVENT];
        event[16] = 1;
        event[18] = 116;
        assert!(!is_power_press(&event));
        event[20] = 1;
        assert!(is_power_press(&event));
    }
}
