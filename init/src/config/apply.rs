//! Applying a config that came over the machine socket.
use std::sync::Arc;
use std::time::Duration;

use machine::config::MachineConfig;
use machine::socket::apply_config::Mode;
use machine::socket::service_action::Action;
use machine::socket::{ApplyConfig, ApplyResult, Error, Fault, error::Code};

use super::{Attempt, LONGEST, activate, keep};
use crate::node::{Machine, ShutdownRequest};
use crate::reader::{Found, NotRead};

/// How long a config waits for the one before it.
const TURN: Duration = Duration::from_secs(10);
/// How long the state volume may take for a config before that is given up.
const KEEP: Duration = Duration::from_secs(20);

/// What a new config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Tasks and services follow it while they run.
    Live,
    /// It takes a boot.
    Boot(&'static str),
}

/// Parses, and unless it is a dry run keeps and activates a config. One at a time: what it changes is compared with what is active.
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
    let active = match machine.reader.read(&Found { yaml, source: "api".into() }).await {
        Ok(active) => active,
        Err(NotRead::Faults(faults)) => {
            let faults = faults.into_iter().map(Fault::from).collect();
            return Ok(ApplyResult { faults, ..Default::default() });
        }
        Err(why) => return Err(error(Code::Unavailable, &format!("{why}; nothing was changed"))),
    };
    let alone = tokio::time::timeout(TURN, machine.applying.lock()).await;
    let _alone = alone.map_err(|_| {
        error(Code::Unavailable, "another config is being applied for 10 s already; nothing was changed")
    })?;
    let before = machine.active_config();
    let change = compare(before.as_ref().map(|a| &a.config), &active.config);
    let action = decide(request.mode(), change).map_err(|why| error(Code::Invalid, &why))?;
    let result = |action: &str| ApplyResult { action: action.into(), ..Default::default() };
    if request.dry_run || action == "none" {
        return Ok(result(action));
    }
    if machine.supervisor.facts().state_mounted {
        let (yaml, attempt) = (active.yaml.clone(), Attempt::default());
        let ours = attempt.clone();
        kept(attempt, move || keep(&yaml, &ours)).await?;
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

/// Waits until the config is kept. What is not in time is given up, so that "not kept" is true; what can no longer be given up is waited for
/// once more, and then it is said that nobody knows.
async fn kept(
    attempt: Attempt,
    keep: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Result<(), Error> {
    let (done, mut outcome) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name("keep config".into()).spawn(move || {
        let _ = done.send(keep());
    });
    if let Err(why) = started {
        return Err(error(Code::Unavailable, &format!("keep the config: {why}")));
    }
    for _ in 0..2 {
        match tokio::time::timeout(KEEP, &mut outcome).await {
            Ok(Ok(kept)) => {
                return kept.map_err(|why| error(Code::Unavailable, &format!("keep the config: {why:#}")));
            }
            Ok(Err(_)) => {
                return Err(error(Code::Internal, "keep the config: the thread ended without an answer"));
            }
            Err(_) if attempt.give_up() => {
                let message = "the state volume did not take the config within 20 s; the one before stays";
                return Err(error(Code::Timeout, message));
            }
            Err(_) => {}
        }
    }
    let message = "the state volume has not said within 40 s whether it took the config: it may be the next boot's, and is not active now";
    Err(error(Code::Timeout, message))
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

    /// A disk that takes a config once the other end is dropped.
    fn hangs(waits: std::sync::mpsc::Receiver<()>) -> impl FnOnce() -> anyhow::Result<()> + Send {
        move || {
            let _ = waits.recv();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_a_slow_disk_is_true() {
        // It hangs before the file takes its name: given up, it is not kept.
        let (attempt, (release, waits)) = (Attempt::default(), std::sync::mpsc::channel::<()>());
        let said = kept(attempt.clone(), hangs(waits)).await.unwrap_err();
        assert!(said.message.contains("the one before stays"), "{}", said.message);
        assert!(!attempt.give_up(), "that was done");
        drop(release);
        // It hangs while the file takes its name.
        let (attempt, (release, waits)) = (Attempt::default(), std::sync::mpsc::channel::<()>());
        assert!(attempt.commits());
        let said = kept(attempt, hangs(waits)).await.unwrap_err();
        assert!(said.message.contains("may be the next boot's"), "{}", said.message);
        drop(release);
        tokio::time::resume();
        kept(Attempt::default(), || Ok(())).await.unwrap();
    }

    fn empty(found: &Found) -> crate::node::ActiveConfig {
        crate::node::ActiveConfig { yaml: found.yaml.clone(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_config_that_nobody_could_read_changes_nothing_and_says_why() {
        let mut machine = crate::socket::tests::machine();
        machine.reader = crate::reader::Reader::of(|_| Err(NotRead::Ended("killed by SIGXCPU".into())));
        let request = ApplyConfig { yaml: b"a".to_vec(), mode: Mode::Auto.into(), dry_run: false };
        let said = apply(&machine, &request).await.unwrap_err();
        assert_eq!(said.code(), Code::Unavailable);
        assert!(
            said.message.contains("SIGXCPU") && said.message.contains("nothing was changed"),
            "{}",
            said.message
        );
        assert!(machine.active_config().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_config_waits_for_the_first_and_not_for_ever() {
        let mut machine = crate::socket::tests::machine();
        machine.reader = crate::reader::Reader::of(|found| Ok(Arc::new(empty(found))));
        let request = ApplyConfig { yaml: b"---\n".to_vec(), mode: Mode::Auto.into(), dry_run: true };
        let first = machine.applying.lock().await;
        assert_eq!(apply(&machine, &request).await.unwrap_err().code(), Code::Unavailable);
        drop(first);
        assert!(apply(&machine, &request).await.is_ok());
    }
}
