//! Pods with a user namespace of their own (`hostUsers: false`): its id maps, and the process that makes it.
//!
//! A pod's network, IPC and UTS namespaces must belong to its user namespace, which a process has to be in to make them, and only a process with a
//! single thread can enter one. So `pintle-launch namespaces` makes all four, waits while this process writes the id maps and pins them, and ends.
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use machine::cri;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::launch::{MappedNamespaces, program};
use crate::namespaces::{Request, pin};

/// No healthy machine takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Ids `first..first + length` of the host for ids from 0 on in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub length: u32,
}

/// The id maps of a pod's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps {
    pub uids: Range,
    pub gids: Range,
}

/// A pod's user namespace.
#[derive(Debug)]
pub struct UserNamespace {
    pub maps: Maps,
    pub file: File,
}

impl UserNamespace {
    /// Opens the one pinned at `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(maps: Maps, path: &Path) -> io::Result<Self> {
        Ok(Self { maps, file: File::open(path)? })
    }

    /// A user of the namespace as the host knows it.
    pub fn host_uid(&self, uid: u32) -> u32 {
        self.maps.uids.host(uid)
    }

    /// A group of the namespace as the host knows it.
    pub fn host_gid(&self, gid: u32) -> u32 {
        self.maps.gids.host(gid)
    }
}

impl Range {
    /// An id of the namespace on the host; the kernel's overflow id when it has none.
    pub fn host(self, id: u32) -> u32 {
        if id < self.length { self.first.saturating_add(id) } else { 65534 }
    }

    fn line(self) -> String {
        format!("0 {} {}\n", self.first, self.length)
    }
}

/// What a pod asks for; none is the host's.
///
/// # Errors
/// What the request has wrong.
pub fn maps(options: &cri::NamespaceOption) -> Result<Option<Maps>, String> {
    let Some(wanted) = &options.userns_options else { return Ok(None) };
    match wanted.mode() {
        cri::NamespaceMode::Node => return Ok(None),
        cri::NamespaceMode::Pod => {}
        other => return Err(format!("a user namespace of mode {other:?} is not supported")),
    }
    let host = cri::NamespaceMode::Node as i32;
    if [options.network, options.pid, options.ipc].contains(&host) {
        return Err(
            "a pod with a user namespace cannot be in the host's network, pid or ipc namespace".into()
        );
    }
    Ok(Some(Maps { uids: range("user", &wanted.uids)?, gids: range("group", &wanted.gids)? }))
}

fn range(kind: &str, mappings: &[cri::IdMapping]) -> Result<Range, String> {
    let [mapping] = mappings else {
        return Err(format!("a user namespace needs exactly one {kind} mapping, not {}", mappings.len()));
    };
    if mapping.container_id != 0 {
        return Err(format!(
            "the {kind} mapping must begin at 0 in the container, not at {}",
            mapping.container_id
        ));
    }
    if mapping.length == 0 || mapping.host_id.checked_add(mapping.length).is_none() {
        return Err(format!("the {kind} mapping has an impossible length"));
    }
    Ok(Range { first: mapping.host_id, length: mapping.length })
}

/// Makes a pod's namespaces inside of a user namespace of their own, and pins them: `user` and `net` in `pins`, the others as `request` says.
///
/// # Errors
/// Names the step the kernel refused.
pub async fn create(pins: &Path, maps: Maps, request: &Request) -> io::Result<()> {
    let mut child = tokio::process::Command::new(program())
        .arg("namespaces")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout), Some(pid)) = (child.stdin.take(), child.stdout.take(), child.id())
    else {
        return Err(io::Error::other("pintle-launch has no pipes"));
    };
    let mut lines = BufReader::new(stdout).lines();
    let talk = async {
        told(lines.next_line().await?)?;
        let proc = format!("/proc/{pid}");
        fs::write(format!("{proc}/uid_map"), maps.uids.line())?;
        fs::write(format!("{proc}/gid_map"), maps.gids.line())?;
        let wanted = MappedNamespaces {
            ipc: request.ipc.is_some(),
            hostname: request.uts.is_some().then(|| request.hostname.clone()),
            sysctls: request.sysctls.clone(),
        };
        stdin.write_all(format!("{}\n", serde_json::to_string(&wanted)?).as_bytes()).await?;
        told(lines.next_line().await?)?;
        let (user, net) = (pins.join("user"), pins.join("net"));
        let all = [
            ("user", Some(&user)),
            ("net", Some(&net)),
            ("ipc", request.ipc.as_ref()),
            ("uts", request.uts.as_ref()),
        ];
        for (kind, path) in all {
            if let Some(path) = path {
                pin(Path::new(&format!("{proc}/ns/{kind}")), path)?;
            }
        }
        Ok(())
    };
    let result = tokio::time::timeout(DEADLINE, talk).await;
    let _ = child.kill().await;
    result.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "pintle-launch did not make the namespaces within 30 s"))
    })
}

/// `ok`, or what failed.
fn told(line: Option<String>) -> io::Result<()> {
    match line.as_deref() {
        Some("ok") => Ok(()),
        Some(failure) => Err(io::Error::other(failure.to_owned())),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "pintle-launch ended without a word")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: cri::NamespaceMode, mappings: &[(u32, u32, u32)]) -> cri::NamespaceOption {
        let list: Vec<_> = mappings
            .iter()
            .map(|(container_id, host_id, length)| cri::IdMapping {
                container_id: *container_id,
                host_id: *host_id,
                length: *length,
            })
            .collect();
        let wanted = cri::UserNamespace { mode: mode as i32, uids: list.clone(), gids: list };
        cri::NamespaceOption { userns_options: Some(wanted), ..Default::default() }
    }

    #[test]
    fn one_mapping_from_zero_on_is_what_a_pod_may_have() {
        use cri::NamespaceMode::{Container, Node, Pod, Target};
        let good = maps(&options(Pod, &[(0, 1000, 65536)])).unwrap().unwrap();
        assert_eq!((good.uids.host(0), good.uids.host(1000), good.gids.host(70000)), (1000, 2000, 65534));
        assert_eq!(maps(&options(Node, &[])), Ok(None));
        assert_eq!(maps(&cri::NamespaceOption::default()), Ok(None));
        for bad in [
            options(Pod, &[]),
            options(Pod, &[(0, 1, 1), (1, 9, 1)]),
            options(Pod, &[(1, 1000, 10)]),
            options(Pod, &[(0, u32::MAX, 10)]),
            options(Container, &[]),
            options(Target, &[]),
            cri::NamespaceOption { network: Node as i32, ..options(Pod, &[(0, 1000, 65536)]) },
        ] {
            assert!(maps(&bad).is_err(), "{bad:?}");
        }
    }
}
