//! From a running PID 1 to a configured node: find the machine config, make the state volume ready, mount volumes.
//!
//! Each round asks what is missing in the design's order and does what it can; a change of devices, network or config starts the next
//! round. What cannot go on is said once, and waits.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::config::Volume;

use super::{identity, state, sysctls, volumes};
use crate::config;
use crate::disk::{self, Device};
use crate::node::{ActiveConfig, Machine};
use crate::reader::{Found, NotRead};
use crate::task::blocking;

const SCAN_DEADLINE: Duration = Duration::from_secs(120);
/// A round is tried again after this long even if nothing was seen to change.
const AGAIN: Duration = Duration::from_secs(30);

/// Rounds until the node is configured and its volumes are mounted, and one for each later change of the config.
pub async fn run(machine: Machine) -> Result<()> {
    identity::early_machine_id()?;
    let mut devices = machine.devices.subscribe();
    // The state of an earlier boot is usually on a disk whose driver the first stage has loaded; anything else waits for drivers.
    if !matches!(disk::choose_state(&scan().await?, None, false), disk::Choice::Mount(_)) {
        let drivers = devices.wait_for(|generation| *generation > 0);
        let _ = tokio::time::timeout(Duration::from_secs(60), drivers).await;
    }
    let mut applied = machine.config.subscribe();
    let mut said = String::new();
    loop {
        devices.borrow_and_update();
        applied.borrow_and_update();
        match round(&machine).await {
            // All is mounted; a later config changes parameters only (disks take a boot).
            Ok(None) => {
                applied.changed().await?;
                continue;
            }
            Ok(Some(waiting)) if waiting != said => {
                machine.events.note("init", "Waiting", &waiting);
                said = waiting;
            }
            Ok(Some(_)) => {}
            Err(error) => {
                let text = format!("{error:#}");
                machine.condition("StateMounted", false, "Failed", &text);
                if text != said {
                    machine.events.note("init", "BootFailed", &text);
                    said = text;
                }
            }
        }
        tokio::select! {
            changed = devices.changed() => changed?,
            changed = applied.changed() => changed?,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// One round; what it waits for, or `None` when all is done.
async fn round(machine: &Machine) -> Result<Option<String>> {
    let devices = scan().await?;
    if !machine.supervisor.facts().state_mounted {
        // The partition of an earlier boot, or with a config the one it names.
        let active = machine.active_config();
        match state::mount(machine, &devices, active.as_deref()).await? {
            None => {}
            Some(_) if active.is_none() => {
                return match other_source(machine, &devices).await? {
                    true => Box::pin(round(machine)).await,
                    false => Ok(Some(no_config())),
                };
            }
            Some(waiting) => return Ok(Some(format!("state volume: {waiting}"))),
        }
    }
    if machine.active_config().is_none()
        && !kept_config(machine).await?
        && !other_source(machine, &devices).await?
    {
        return Ok(Some(no_config()));
    }
    let Some(active) = machine.active_config() else { return Ok(Some(no_config())) };
    keep(machine, &active).await;
    let parameters = active.config.sysctls.clone();
    blocking("set kernel parameters", SCAN_DEADLINE, move || {
        sysctls::apply(&parameters);
        Ok(())
    })
    .await?;
    mount_volumes(machine, &active.config.volumes).await
}

/// Mounts the volumes and, once all of them are, lets the services start that keep data. What a later config says of volumes is the next boot's.
async fn mount_volumes(machine: &Machine, documents: &[Volume]) -> Result<Option<String>> {
    if machine.supervisor.facts().volumes_mounted {
        return Ok(None);
    }
    if let Some(waiting) = volumes::mount(machine, &scan().await?, documents).await {
        return Ok(Some(waiting));
    }
    if !documents.is_empty() {
        blocking("lay out the volumes", SCAN_DEADLINE, state::make_folders).await?;
        // One of them may be what logs are written to.
        machine.logs.open();
    }
    machine.supervisor.set_facts(|facts| facts.volumes_mounted = true);
    Ok(None)
}

fn no_config() -> String {
    "waiting for machine config: none on the state volume, in the image, at pintle.config=, on a volume labelled PINTLE-CONFIG or cidata, in fw_cfg or in SMBIOS; provide one"
        .into()
}

async fn scan() -> Result<Vec<Device>> {
    blocking("look at the disks", SCAN_DEADLINE, || Ok(disk::scan())).await
}

/// Activates the config that an earlier boot kept. One that no longer parses stays where it is, its faults are said, and the one before it is
/// taken; if that is no better, other sources are asked.
async fn kept_config(machine: &Machine) -> Result<bool> {
    let Some(found) = blocking("read the kept config", SCAN_DEADLINE, config::from_state).await? else {
        return Ok(false);
    };
    if try_config(machine, &found).await? {
        return Ok(true);
    }
    let Some(previous) = blocking("read the kept config", SCAN_DEADLINE, config::from_previous).await? else {
        return Ok(false);
    };
    let taken = try_config(machine, &previous).await?;
    if taken {
        let said = "the kept config has faults and stays as it is; the one before it is active";
        machine.events.note("init", "ConfigFallback", said);
        machine.condition("ConfigValid", false, "Fallback", said);
    }
    Ok(taken)
}

/// Asks the image, the command line's URL, labelled volumes and the firmware.
async fn other_source(machine: &Machine, devices: &[Device]) -> Result<bool> {
    if let Some(found) = blocking("read the image's config", SCAN_DEADLINE, config::from_image).await?
        && try_config(machine, &found).await?
    {
        return Ok(true);
    }
    if let Some(url) = config::url() {
        match config::fetch(machine, &url).await {
            Ok(found) => {
                if try_config(machine, &found).await? {
                    return Ok(true);
                }
            }
            Err(error) => tracing::warn!("fetch the machine config from {url}: {error:#}"),
        }
    }
    let devices = devices.to_vec();
    let found =
        blocking("read config volumes", SCAN_DEADLINE, move || config::from_volumes(&devices)).await?;
    if let Some(found) = found
        && try_config(machine, &found).await?
    {
        return Ok(true);
    }
    if let Some(found) = blocking("read fw_cfg", SCAN_DEADLINE, config::from_firmware).await?
        && try_config(machine, &found).await?
    {
        return Ok(true);
    }
    match blocking("read SMBIOS", SCAN_DEADLINE, config::from_smbios).await? {
        Some(found) => try_config(machine, &found).await,
        None => Ok(false),
    }
}

/// Activates a config; its faults go to the console and the events, each with its place and remedy. A text that the reader did not survive is a
/// fault too: it would not the next time either.
///
/// # Errors
/// When there was nobody to read it, which the next round may change.
async fn try_config(machine: &Machine, found: &Found) -> Result<bool> {
    let faults: Vec<String> = match machine.reader.read(found).await {
        Ok(active) => return config::activate(machine, active).map(|()| true),
        Err(NotRead::Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
        Err(why) if why.is_of_the_text() => vec![format!("{}: {why}", found.source)],
        Err(why) => return Err(why).with_context(|| format!("the machine config from {}", found.source)),
    };
    // Each round reads the source anew; the same fault is said once.
    let said = machine.events.after(0);
    for fault in &faults {
        if !said.iter().any(|event| event.kind == "ConfigFault" && event.message == *fault) {
            machine.events.note("init", "ConfigFault", fault);
        }
    }
    let message = format!("{} faults in the config from {}", faults.len(), found.source);
    machine.condition("ConfigValid", false, "Faults", &message);
    Ok(false)
}

/// A config from elsewhere survives the next boot on the state volume. Trouble with that does not keep the node from running.
async fn keep(machine: &Machine, active: &Arc<ActiveConfig>) {
    if active.source.starts_with("state") {
        return;
    }
    let (yaml, applied) = (active.yaml.clone(), active.source == "api");
    let keep = move || {
        if applied {
            config::keep(&yaml, &config::Attempt::default()).map(|()| true)
        } else {
            config::keep_first(&yaml)
        }
    };
    let kept = blocking("keep the config", SCAN_DEADLINE, keep).await;
    let trouble = match kept {
        Ok(true) => return machine.condition("ConfigKept", true, "Kept", ""),
        Ok(false) => {
            "the state volume keeps another config, which counts at the next boot; `pintle apply` replaces it"
                .to_owned()
        }
        Err(error) => format!("{error:#}; the next boot will not know this config"),
    };
    if !machine.conditions().iter().any(|c| c.name == "ConfigKept" && c.message == trouble) {
        machine.events.note("init", "ConfigNotKept", &trouble);
    }
    machine.condition("ConfigKept", false, "Failed", &trouble);
}
