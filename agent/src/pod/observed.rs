//! A pod as the runtime has it, read through CRI and told apart by the kubelet's labels and annotations.
use std::collections::HashMap;

use machine::cri;

use crate::backoff::Nanos;
use crate::clock::now;
use crate::cri::{Cri, Result};

pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
pub const ANNOTATION_RESTARTS: &str = "io.kubernetes.container.restartCount";
pub const ANNOTATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const ANNOTATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// A pod sandbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Nanos,
    pub ips: Vec<String>,
    pub runtime_handler: String,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub restarts: u32,
    pub hash: String,
    pub state: State,
    pub created_at: Nanos,
    pub started_at: Nanos,
    /// As the runtime tells, since the epoch.
    pub finished_at: Nanos,
    /// When it was first seen to have ended, on the clock of waits.
    pub ended_at: Nanos,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// As the pod named it.
    pub image: String,
    /// What the runtime resolved it to; a digest.
    pub image_ref: String,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// Everything of one pod that the runtime knows, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest sandbox, when it runs.
    #[must_use]
    pub fn current(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The newest container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of this name in the current sandbox.
    #[must_use]
    pub fn active(&self, name: &str) -> Option<&Container> {
        let sandbox = &self.sandboxes.first()?.id;
        self.containers.iter().find(|c| c.name == name && c.sandbox == *sandbox)
    }

    #[must_use]
    pub fn anything_runs(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready) || self.containers.iter().any(|c| c.state == State::Running)
    }
}

/// Reads one pod from the runtime. What `previous` knows of ended containers is not asked again.
///
/// # Errors
/// As the CRI calls.
pub async fn read(cri: &Cri, uid: &str, previous: &Observed) -> Result<Observed> {
    let selector: HashMap<String, String> = [(LABEL_POD_UID.to_owned(), uid.to_owned())].into();
    let filter = cri::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let mut observed = Observed::default();
    for sandbox in cri.list_pod_sandboxes(Some(filter)).await? {
        if let Some(read) = read_sandbox(cri, sandbox).await? {
            observed.sandboxes.push(read);
        }
    }
    let filter = cri::ContainerFilter { label_selector: selector, ..Default::default() };
    for container in cri.list_containers(Some(filter)).await? {
        let known = previous.containers.iter().find(|c| c.id == container.id && c.state == State::Exited);
        match known {
            Some(known) => observed.containers.push(known.clone()),
            None => match cri.container_status(&container.id).await {
                Ok(answer) => {
                    let (sandbox, now) = (container.pod_sandbox_id, now());
                    if let Some(status) = answer.status {
                        // Last words are read from a disk.
                        let seen = tokio::task::spawn_blocking(move || from_status(status, sandbox, now));
                        observed.containers.extend(seen.await.ok());
                    }
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
        }
    }
    observed.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
    observed.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restarts)));
    Ok(observed)
}

/// The API server takes one address per IP family; a CNI network may give a pod more, its main ones first.
fn first_of_each_family(ips: Vec<String>) -> Vec<String> {
    let mut first: Vec<String> = Vec::new();
    for ip in ips.into_iter().filter(|ip| !ip.is_empty()) {
        if !first.iter().any(|known| known.contains(':') == ip.contains(':')) {
            first.push(ip);
        }
    }
    first
}

async fn read_sandbox(cri: &Cri, sandbox: cri::PodSandbox) -> Result<Option<Sandbox>> {
    let ready = sandbox.state == cri::PodSandboxState::SandboxReady as i32;
    let mut ips = Vec::new();
    if ready {
        match cri.pod_sandbox_status(&sandbox.id).await {
            Ok(answer) => {
                if let Some(network) = answer.status.and_then(|s| s.network) {
                    ips.push(network.ip);
                    ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
                    ips = first_of_each_family(ips);
                }
            }
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Sandbox {
        attempt: sandbox.metadata.map_or(0, |m| m.attempt),
        id: sandbox.id,
        ready,
        created_at: sandbox.created_at,
        ips,
        runtime_handler: sandbox.runtime_handler,
    }))
}

fn from_status(status: cri::ContainerStatus, sandbox: String, now: Nanos) -> Container {
    let state = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => State::Created,
        Ok(cri::ContainerState::ContainerRunning) => State::Running,
        Ok(cri::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    Container {
        name: status.labels.get(LABEL_CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        restarts: annotation(ANNOTATION_RESTARTS).parse().unwrap_or(metadata.attempt),
        hash: annotation(ANNOTATION_HASH),
        id: status.id,
        sandbox,
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        ended_at: if state == State::Exited { now } else { 0 },
        exit_code: status.exit_code,
        reason: status.reason,
        message: if state == State::Exited {
            last_words(
                &status.message,
                &status.mounts,
                &annotation(ANNOTATION_MESSAGE_PATH),
                status.exit_code,
                &annotation(ANNOTATION_MESSAGE_POLICY),
                &status.log_path,
            )
        } else {
            status.message.clone()
        },
        image: status
            .image
            .map(|i| if i.user_specified_image.is_empty() { i.image } else { i.user_specified_image })
            .unwrap_or_default(),
        image_ref: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        user: status.user.and_then(|u| u.linux).map(|u| (u.uid, u.gid, u.supplemental_groups)),
    }
}

/// The most bytes of a termination message.
const MESSAGE_LIMIT: u64 = 4096;
/// The most bytes and lines taken from a log in its stead.
const LOG_LIMIT: u64 = 2048;
const LOG_LINES: usize = 80;

/// What a container left at its terminationMessagePath, or the end of its log where its policy says so.
fn last_words(
    runtime: &str,
    mounts: &[cri::Mount],
    path: &str,
    exit_code: i32,
    policy: &str,
    log_path: &str,
) -> String {
    let file =
        mounts.iter().find(|m| !path.is_empty() && m.container_path == path && !m.host_path.is_empty());
    let mut text = file.map(|m| read_end(&m.host_path, MESSAGE_LIMIT)).unwrap_or_default();
    if text.is_empty() && exit_code != 0 && policy == "FallbackToLogsOnError" {
        text = log_text(&read_end(log_path, 2 * LOG_LIMIT));
    }
    if text.is_empty() { runtime.to_owned() } else { text }
}

/// The end of a file that a container may have written: never followed through a link, never more than `limit` bytes.
fn read_end(path: &str, limit: u64) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = crate::shared_file::open(path.as_ref())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The text of CRI log lines (`time stream tag text`), their last lines.
fn log_text(log: &str) -> String {
    let mut lines: Vec<&str> =
        log.lines().rev().filter_map(|line| line.splitn(4, ' ').nth(3)).take(LOG_LINES).collect();
    lines.reverse();
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let cut = text.len().saturating_sub(usize::try_from(LOG_LIMIT).unwrap_or(usize::MAX));
    let start = (cut..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::SECOND;

    #[test]
    fn a_clock_that_is_set_back_delays_no_restart() {
        const DAY: Nanos = 24 * 3600 * SECOND;
        let status = cri::ContainerStatus {
            state: cri::ContainerState::ContainerExited.into(),
            // By a clock that has been set back by a day since.
            finished_at: crate::clock::wall() + DAY,
            ..Default::default()
        };
        let now = now();
        let ended = from_status(status, "s".into(), now);
        let mut backoff = crate::backoff::Backoff::default();
        backoff.next(now, now);
        assert_eq!(backoff.until(ended.ended_at, now), Some(now + 10 * SECOND));
        assert_eq!(backoff.until(ended.ended_at, now + 10 * SECOND), None);
    }

    #[test]
    fn a_pod_has_one_address_of_each_family() {
        let ips = |list: &[&str]| first_of_each_family(list.iter().map(|ip| (*ip).to_owned()).collect());
        assert_eq!(ips(&["10.1.0.5", "192.0.2.7", "fd00::5", "fd01::5"]), ["10.1.0.5", "fd00::5"]);
        assert_eq!(ips(&["", "fd00::5"]), ["fd00::5"]);
        assert!(ips(&[]).is_empty());
    }

    #[test]
    fn a_failed_container_without_a_message_speaks_through_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two words\n")
            .unwrap();
        let log = log.to_str().unwrap();
        assert_eq!(
            last_words("", &[], "/dev/termination-log", 1, "FallbackToLogsOnError", log),
            "one\ntwo words\n"
        );
        assert_eq!(last_words("", &[], "/dev/termination-log", 0, "FallbackToLogsOnError", log), "");
        let message = folder.path().join("message");
        std::fs::write(&message, "bye").unwrap();
        let mount = cri::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: message.to_str().unwrap().into(),
            ..Default::default()
        };
        assert_eq!(last_words("", &[mount], "/dev/termination-log", 1, "File", log), "bye");
    }
}
