//! What was done for each pod, on record before it is done, so that DEL and CHECK repeat exactly what ADD was told: also after a death of ours, and after
//! the configuration has changed or gone (section 3 of the specification, "Lifecycle & Ordering").
//!
//! Unlike the built-in network's records these lie on the state volume. Plugins keep state on disks too, such as host-local its addresses: a record lives
//! as long as what it speaks of, so that after a reboot each attachment of before is still deleted.
use std::collections::BTreeMap;
use std::fs::{self};
use std::io::{self};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use node_kit::files::{self, Durability};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkConfig;
use super::result::AddResult;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Plugins are being run; after a restart it is deleted.
    Adding,
    Added,
    /// Some plugins may have been run with DEL; until all have succeeded it is tried again.
    Deleting,
}

/// A pod on a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub phase: Phase,
    pub container_id: String,
    pub interface: String,
    pub netns: PathBuf,
    /// `CNI_ARGS`.
    pub arguments: String,
    pub capabilities: Map<String, Value>,
    /// The configuration that ADD was given.
    pub network: NetworkConfig,
    /// Of the last plugin that ADD has run so far.
    pub result: Option<AddResult>,
}

/// The folder of records.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Uses `folder`, which is made if need be.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join("pods"))?;
        // Configurations may hold secrets.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// All attachments, by container id. What cannot be read is told and left out: nothing can be done with it.
    pub fn load(&self) -> io::Result<BTreeMap<String, Attachment>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(self.folder.join("pods"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // Half written when we died.
                fs::remove_file(&path)?;
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Attachment>(&bytes)?)) {
                Ok(attachment) => drop(all.insert(attachment.container_id.clone(), attachment)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "read what CNI plugins were told; what they did for that pod stays");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(all)
    }

    /// Writes a record. `lasting`: it is to survive a power cut, not only our own death.
    pub fn put(&self, attachment: &Attachment, lasting: bool) -> io::Result<()> {
        replace(&self.path(&attachment.container_id), &serde_json::to_vec(attachment)?, lasting)
    }

    /// Not flushed: a record that comes back only has its attachment deleted once more.
    pub fn remove(&self, container_id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(container_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The node's ranges, as they were told last.
    pub fn ranges(&self) -> Vec<IpNet> {
        fs::read(self.folder.join("ranges.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub fn set_ranges(&self, ranges: &[IpNet]) -> io::Result<()> {
        replace(&self.folder.join("ranges.json"), &serde_json::to_vec(ranges)?, false)
    }

    fn path(&self, container_id: &str) -> PathBuf {
        self.folder.join("pods").join(format!("{container_id}.json"))
    }
}

fn replace(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let durability = if lasting { Durability::PowerCut } else { Durability::Process };
    Ok(files::replace(path, bytes, 0o600, durability)?)
}

#[cfg(test)]
mod tests {
    use super::super::config::parse_list;
    use super::super::version::Version;
    use super::*;

    #[test]
    fn records_come_back_and_broken_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let network =
            parse_list(br#"{"name": "x", "cniVersion": "1.1.0", "plugins": [{"type": "a", "n": 1}]}"#);
        let mut attachment = Attachment {
            phase: Phase::Adding,
            container_id: "a1".into(),
            interface: "eth0".into(),
            netns: "/run/ns".into(),
            arguments: "IgnoreUnknown=1".into(),
            capabilities: Map::new(),
            network: network.unwrap(),
            result: None,
        };
        records.put(&attachment, true).unwrap();
        attachment.result = AddResult::parse(br#"{"ips": []}"#, Version::V1_1_0).ok();
        records.put(&attachment, false).unwrap();
        fs::write(folder.path().join("pods/b.json"), "{").unwrap();
        fs::write(folder.path().join("pods/c.new"), "").unwrap();
        records.set_ranges(&["10.1.0.0/24".parse().unwrap()]).unwrap();
        let records = Records::open(folder.path()).unwrap();
        assert_eq!(records.load().unwrap(), BTreeMap::from([("a1".to_owned(), attachment)]));
        assert_eq!(fs::read_dir(folder.path().join("pods")).unwrap().count(), 1);
        assert_eq!(records.ranges().len(), 1);
        records.remove("a1").unwrap();
        records.remove("a1").unwrap();
        assert!(records.load().unwrap().is_empty());
    }
}
