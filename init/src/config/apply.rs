//! Applying a config that came over the machine socket.
use std::sync::Arc;
use std::time::Duration;

use machine::config::MachineConfig;
use machine::socket::apply_config::Mode;
use machine::socket::service_action::Action;
use machine::socket::{ApplyConfig, ApplyResult, Error, Fault, error::Code};

use super::{Found, LONGEST, activate, keep, parse};
use crate::node::{Machine, ShutdownRequest};
use crate::task::blocking;

/// What a new config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Tasks and services follow it while they run.
    Live,
    /// It takes a boot.
    Boot(&'static str),
}

/// Parses, and unless it is a dry run keeps and activates a config.
///
/// # Errors
/// For what is no fault of the config: it cannot be stored, or the mode does not fit the change.
pub async fn apply(machine: &Machine, request: &ApplyConfig) -> Result<ApplyResult, Error> {
    if request.yaml.len() as u64 > LONGEST {
        return Err(error(Code::Invalid, "a machine config is at most 1 MiB long"));
    }
    let Ok(yaml) = String::from_utf8(request.yaml.clone()) else {
        return Err(error(Code::Invalid, "a machine config is UTF-8 text"));
    };
    let active = match parse(&Found { yaml, source: "api".into() }) {
        Ok(active) => active,
        Err(faults) => {
            return Ok(ApplyResult { faults: faults.into_iter().map(fault).collect(), ..Default::default() });
        }
    };
    let before = machine.active_config();
    let change = compare(before.as_ref().map(|a| &a.config), &active.config);
    let action = decide(request.mode(), change).map_err(|why| error(Code::Invalid, &why))?;
    let result = |action: &str| ApplyResult { action: action.into(), ..Default::default() };
    if request.dry_run || action == "none" {
        return Ok(result(action));
    }
    if machine.supervisor.facts().state_mounted {
        let yaml = active.yaml.clone();
        let kept = blocking("keep the config", Duration::from_secs(30), move || keep(&yaml)).await;
        kept.map_err(|why| error(Code::Unavailable, &format!("keep the config: {why:#}")))?;
    } else if before.is_some() {
        return Err(error(
            Code::Unavailable,
            "the state volume is not mounted, so the config cannot be kept",
        ));
    }
    match action {
        "staged" => {}
        "reboot" => {
            let reason = "the new machine config needs it".into();
            let _ = machine.shutdown.try_send(ShutdownRequest { reboot: true, force: false, reason });
        }
        _ => {
            activate(machine, Arc::clone(&active))
                .map_err(|why| error(Code::Internal, &format!("activate the config: {why:#}")))?;
            if before.is_some_and(|before| concerns_runtime(&before.config, &active.config)) {
                machine.supervisor.act("runtime", Action::Restart).await;
            }
        }
    }
    Ok(result(action))
}

fn compare(before: Option<&MachineConfig>, after: &MachineConfig) -> Change {
    let Some(before) = before else { return Change::Live };
    if before == after {
        return Change::None;
    }
    for (what, changed) in [
        ("Install", before.install != after.install),
        ("Volume", before.volumes != after.volumes),
        ("Cluster", before.cluster != after.cluster),
        ("Machine.role", before.machine.role != after.machine.role),
    ] {
        if changed {
            return Change::Boot(what);
        }
    }
    Change::Live
}

/// Whether the runtime has to read the config anew. It does so when it starts, and its containers do not notice a start.
fn concerns_runtime(before: &MachineConfig, after: &MachineConfig) -> bool {
    before.registries != after.registries || before.runtime != after.runtime
}

fn decide(mode: Mode, change: Change) -> Result<&'static str, String> {
    Ok(match (mode, change) {
        (Mode::Auto | Mode::NoReboot, Change::None) => "none",
        (Mode::Auto | Mode::NoReboot, Change::Live) => "applied",
        (Mode::Auto, Change::Boot(_)) | (Mode::Reboot, _) => "reboot",
        (Mode::NoReboot, Change::Boot(what)) => {
            return Err(format!(
                "the change of {what} takes a reboot; apply it with mode auto, reboot or staged"
            ));
        }
        (Mode::Staged, _) => "staged",
    })
}

fn fault(fault: machine::config::Fault) -> Fault {
    Fault {
        file: fault.file,
        line: fault.line,
        column: fault.column,
        field: fault.field,
        message: fault.message,
        remedy: fault.remedy,
    }
}

fn error(code: Code, message: &str) -> Error {
    Error { code: code.into(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_disks_or_cluster_takes_a_boot_and_others_do_not() {
        let before = MachineConfig::default();
        let mut live = before.clone();
        live.machine.hostname = Some("other".into());
        assert_eq!(compare(Some(&before), &live), Change::Live);
        assert_eq!(compare(Some(&before), &before), Change::None);
        let mut boot = before.clone();
        boot.install = Some(machine::config::Install::default());
        assert_eq!(compare(Some(&before), &boot), Change::Boot("Install"));
        assert_eq!(compare(None, &boot), Change::Live);
    }

    #[test]
    fn the_runtime_reads_changed_registries_at_once() {
        let before = MachineConfig::default();
        let mut after = before.clone();
        after.machine.hostname = Some("other".into());
        assert!(!concerns_runtime(&before, &after));
        after.registries.push(machine::config::Registry { host: "*".into(), ..Default::default() });
        assert!(concerns_runtime(&before, &after));
        assert_eq!(compare(Some(&before), &after), Change::Live);
    }

    #[test]
    fn a_mode_that_forbids_the_reboot_a_change_takes_is_refused() {
        assert!(decide(Mode::NoReboot, Change::Boot("Install")).unwrap_err().contains("Install"));
        assert_eq!(decide(Mode::Auto, Change::Boot("Install")), Ok("reboot"));
        assert_eq!(decide(Mode::Staged, Change::Live), Ok("staged"));
        assert_eq!(decide(Mode::Auto, Change::None), Ok("none"));
    }
}
