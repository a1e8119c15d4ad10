//! What the runtime knows of sandboxes and containers, one file each on the tmpfs below `/run/pintle/runtime`. A record is written before
//! what it speaks of is made (see [`crate::record`]), and replaced atomically; after a reboot there is none,
//! and nothing runs either.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use machine::cri;
use node_kit::files::{Durability, replace};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made; after a restart it is undone.
    Creating,
    Created,
    /// Being launched, its program not yet told to run; after a restart the start goes on or is undone.
    Starting,
    Running,
    Exited,
    /// Being removed; after a restart that is finished.
    Removing,
}

/// A container on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    #[serde(with = "proto")]
    pub config: cri::ContainerConfig,
    pub image_id: String,
    pub phase: Phase,
    /// Nanoseconds since the epoch, as the following.
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub pid: i32,
    pub start_time: u64,
    /// Absolute; empty without a log.
    pub log_path: String,
    pub cgroup_parent: String,
    pub stop_signal: i32,
    pub seccomp: Option<PathBuf>,
    pub privileged: bool,
    pub user: crate::spec::user_record::UserRecord,
    /// Snapshots made for image volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
}

/// A pod sandbox on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    #[serde(with = "proto")]
    pub config: cri::PodSandboxConfig,
    pub runtime_handler: String,
    pub created_at: i64,
    /// False until everything was made, and again once it is stopped.
    pub ready: bool,
    pub creating: bool,
    pub ips: Vec<String>,
    /// The pause process of a shared pid namespace.
    pub pause: Option<(i32, u64)>,
    /// Whether it has ended, and the sandbox can never be ready again.
    #[serde(default)]
    pub pause_ended: bool,
}

/// The namespace options of a pod.
pub fn options(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let linux = config.linux.as_ref();
    linux
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or_default()
}

/// The cgroup that those of the pod's containers lie in.
pub(crate) fn cgroup_parent(config: &cri::PodSandboxConfig) -> String {
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone());
    parent.filter(|parent| !parent.is_empty()).unwrap_or_else(|| "/kubepods".into())
}

/// Folders below [`machine::paths::RUNTIME_RUN`].
pub fn folder(kind: &str, id: &str) -> PathBuf {
    Path::new(machine::paths::RUNTIME_RUN).join(kind).join(id)
}

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A new id: 256 random bits in hex, as CRI clients know them.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn new_id() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Replaces a file as a whole; nobody but root may read it. It is for a tmpfs: nothing is flushed to a disk.
///
/// # Errors
/// When it cannot be written; the file is as it was then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Ok(replace(path, bytes, 0o600, Durability::Process)?)
}

/// Makes a folder with those above it, and gives it this mode, whatever it had and whatever the umask.
/// Environments and commands of containers hold secrets: what lies below the runtime's folder is closed to
/// everybody else, and only to be gone through where a pod's own users must.
///
/// # Errors
/// As mkdir(2) and chmod(2).
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes a folder with what is in it; none there is no error.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets the root of a pod's user namespace, and nobody else, go through a folder: there it is the group.
///
/// # Errors
/// As chown(2) and chmod(2).
pub fn admit(path: &Path, group: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::os::unix::fs::chown(path, None, Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(GROUP_MAY_PASS))
}

/// Of a folder that nobody but root may enter.
pub const CLOSED: u32 = 0o700;
/// Of a folder that everybody may go through to what they know the name of.
pub const ALL_MAY_PASS: u32 = 0o711;
const GROUP_MAY_PASS: u32 = 0o710;

/// Writes a file that nobody but root may read.
///
/// # Errors
/// As open(2) and write(2).
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Writes a record.
///
/// # Errors
/// When it cannot be written.
pub fn save<T: Serialize>(folder: &Path, record: &T) -> io::Result<()> {
    write_atomically(&folder.join("record.json"), &serde_json::to_vec(record)?)
}

/// Every record below `folder`, and the names of folders without a readable one.
pub fn load<T: DeserializeOwned>(folder: &Path) -> (Vec<T>, Vec<String>) {
    let (mut records, mut orphans) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let parsed = fs::read(entry.path().join("record.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match parsed {
            Some(record) => records.push(record),
            None => orphans.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    (records, orphans)
}

/// A prost message inside of JSON.
mod proto {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use prost::Message;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<M: Message, S: Serializer>(message: &M, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<M, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(&bytes[..]).map_err(D::Error::custom)
    }
}
