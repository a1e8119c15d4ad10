//! What the pod network remembers of each pod, on the runtime's tmpfs: it lives as long as the kernel objects it speaks of.
use std::collections::BTreeMap;
use std::io::{self};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use node_kit::files::{Durability, replace};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PortMapping;

/// One pod's share of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortMapping>,
}

/// The folder of records.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Uses `folder`, which is made if need be.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("pods"))?;
        // Half-written files of a killed process; those of pods go when they are loaded.
        for name in ["last.new", "ranges.new"] {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let records = Self { folder: folder.to_owned() };
        // There from the beginning, so that pods leave nothing that was not there before them.
        if !records.last_path().exists() {
            records.set_last(&[])?;
        }
        Ok(records)
    }

    /// All records, by sandbox id. Half-written files of a killed process are removed. What cannot be read is told and left out: one
    /// pod's record must not keep the node from having a network.
    pub fn load(&self) -> io::Result<BTreeMap<String, Record>> {
        let mut records = BTreeMap::new();
        for entry in std::fs::read_dir(self.folder.join("pods"))? {
            let path = entry?.path();
            let (Some(id), Some("json")) = (
                path.file_stem().and_then(|stem| stem.to_str()),
                path.extension().and_then(|extension| extension.to_str()),
            ) else {
                std::fs::remove_file(&path)?;
                continue;
            };
            match std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                Ok(record) => drop(records.insert(id.to_owned(), record)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "read a pod's share of the network; the pod loses it");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        Ok(records)
    }

    pub fn put(&self, id: &str, record: &Record) -> io::Result<()> {
        write_atomically(&self.path(id), &serde_json::to_vec(record)?)
    }

    pub fn remove(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The addresses given out last, one per range.
    pub fn last(&self) -> Vec<IpAddr> {
        read_or_default(&self.last_path())
    }

    pub fn set_last(&self, last: &[IpAddr]) -> io::Result<()> {
        write_atomically(&self.last_path(), &serde_json::to_vec(last)?)
    }

    fn last_path(&self) -> PathBuf {
        self.folder.join("last.json")
    }

    /// The node's ranges, as they were told last.
    pub fn ranges(&self) -> Vec<IpNet> {
        read_or_default(&self.folder.join("ranges.json"))
    }

    pub fn set_ranges(&self, ranges: &[IpNet]) -> io::Result<()> {
        write_atomically(&self.folder.join("ranges.json"), &serde_json::to_vec(ranges)?)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join("pods").join(format!("{id}.json"))
    }
}

fn read_or_default<T: DeserializeOwned + Default>(path: &Path) -> T {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Ok(replace(path, bytes, 0o600, Durability::Process)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_read_stops_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let record = Record { addresses: vec!["10.1.0.7".parse().unwrap()], ports: Vec::new() };
        records.put("whole", &record).unwrap();
        std::fs::write(folder.path().join("pods/cut.json"), "{\"addresses\":[\"10.").unwrap();
        std::fs::write(folder.path().join("pods/noise.json"), [0xff, 0, 0xfe]).unwrap();
        assert_eq!(records.load().unwrap(), BTreeMap::from([("whole".to_owned(), record)]));
        assert_eq!(std::fs::read_dir(folder.path().join("pods")).unwrap().count(), 1);
    }

    #[test]
    fn after_the_last_pod_the_folder_is_as_before_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let files = || {
            let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let records = Records::open(folder.path()).unwrap();
        let before = files();
        let address = "10.244.7.2".parse().unwrap();
        records.put("a", &Record { addresses: vec![address], ports: vec![] }).unwrap();
        records.set_last(&[address]).unwrap();
        records.remove("a").unwrap();
        assert_eq!(files(), before);
        assert_eq!(Records::open(folder.path()).unwrap().last(), [address]);
    }
}
