//! The hardware watchdog of a `Watchdog` document. PID 1's one thread feeds it: when that thread stands still, so does the food. A shutdown
//! leaves it armed, so that a machine that does not come out of one is reset.
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use machine::config::Watchdog;
use sys::watchdog::{ArmError, Watchdog as Device};

use crate::node::Machine;

/// Pause before a device that is not there (yet) is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Arms, feeds and disarms as the config says.
pub async fn follow(machine: Machine) -> Result<()> {
    let mut config = machine.config.subscribe();
    let mut armed: Option<(Watchdog, Device, Duration)> = None;
    // What the device does not take; opening it again would arm and feed it.
    let mut refused: Option<Watchdog> = None;
    loop {
        let wanted = config.borrow_and_update().as_ref().and_then(|active| active.config.watchdog.clone());
        if armed.as_ref().map(|(document, ..)| document) != wanted.as_ref() {
            if let Some((document, device, _)) = armed.take() {
                say(&machine, &document, "disarmed", device.disarm());
            }
            if let Some(document) = wanted.as_ref().filter(|document| refused.as_ref() != Some(document)) {
                match Device::arm(Path::new(&document.device), document.timeout_seconds) {
                    Ok((device, seconds)) => {
                        say(&machine, document, &format!("armed, {seconds} s"), Ok(()));
                        armed = Some((document.clone(), device, pause(seconds)));
                    }
                    Err(error) => {
                        refused = matches!(error, ArmError::Timeout { .. }).then(|| document.clone());
                        say(&machine, document, "armed", Err(io::Error::other(error)));
                    }
                }
            }
        }
        let next = match &mut armed {
            Some((document, device, pause)) => {
                if let Err(error) = device.feed() {
                    say(&machine, document, "fed", Err(error));
                }
                *pause
            }
            None if wanted.is_some() && wanted != refused => AGAIN,
            None => Duration::from_secs(86_400),
        };
        tokio::select! {
            changed = config.changed() => changed?,
            () = tokio::time::sleep(next) => {}
        }
    }
}

/// Three signs of life within a timeout: two may come late.
fn pause(seconds: u32) -> Duration {
    (Duration::from_secs(seconds.into()) / 3).max(Duration::from_millis(300))
}

fn say(machine: &Machine, document: &Watchdog, what: &str, result: io::Result<()>) {
    match result {
        Ok(()) => {
            machine.condition("Watchdog", true, "Done", &format!("{} is {what}", document.device));
            machine.events.note("init", "Watchdog", &format!("{} is {what}", document.device));
        }
        Err(error) => {
            let message =
                format!("{} cannot be {what}: {error}; has the machine such a device?", document.device);
            machine.condition("Watchdog", false, "Failed", &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_three_times_within_its_timeout() {
        assert_eq!(pause(60), Duration::from_secs(20));
        assert!(pause(1) < Duration::from_millis(400));
    }
}
