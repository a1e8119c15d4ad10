//! Writable layers of containers, and what each stands on.
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::collect::Orphans;
use super::measure::Measured;
use super::store::{Store, StoreError, io_error};
use super::{Image, Snapshot};

impl Store {
    /// Makes the writable layer of a container above an image's layers; it holds them until
    /// [`Store::remove_snapshot`].
    ///
    /// # Errors
    /// When the image was removed meanwhile, the id is no file name, or the disk refuses.
    pub fn prepare_snapshot(&self, container_id: &str, image: &Image) -> Result<Snapshot, StoreError> {
        let folder = self.snapshot_path(container_id)?;
        let keys: Vec<String> = {
            let mut catalog = self.catalog();
            let own = image.layers.iter().filter(|path| path.starts_with(&self.0.root));
            let keys: Vec<String> = own.filter_map(|path| layer_key(path)).collect();
            if keys.iter().any(|key| !catalog.layers.contains_key(key)) {
                return Err(StoreError::Gone(image.id.clone()));
            }
            catalog.snapshots.insert(container_id.into(), keys.clone());
            keys
        };
        let made = make_snapshot(&folder, &keys, image);
        match &made {
            Ok(_) => self.0.measures.begin(container_id),
            Err(_) => drop(self.catalog().snapshots.remove(container_id)),
        }
        made
    }

    fn snapshot_path(&self, container_id: &str) -> Result<PathBuf, StoreError> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if container_id.is_empty() || container_id.len() > 128 || !container_id.bytes().all(safe) {
            return Err(StoreError::SnapshotId(container_id.into()));
        }
        Ok(self.0.root.join("snapshots").join(container_id))
    }

    /// Removes a container's writable layer, which must not be mounted any more; an unknown one is no error.
    /// Blocks.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_snapshot(&self, container_id: &str) -> Result<(), StoreError> {
        self.discard(&self.snapshot_path(container_id)?)?;
        self.catalog().snapshots.remove(container_id);
        self.0.measures.forget(container_id);
        // Layers whose image went while the container still used them.
        self.collect(Orphans::Old)?;
        self.empty_trash()
    }

    /// Ids of the containers that have a writable layer.
    pub fn snapshots(&self) -> Vec<String> {
        self.catalog().snapshots.keys().cloned().collect()
    }

    /// What a container's writable layer takes, as it was measured last; unknown for one that has not been
    /// measured yet.
    pub fn usage(&self, container_id: &str) -> Option<Measured> {
        self.0.measures.ask(container_id)
    }
}

/// `<state>/layers/<key>/fs` → `<key>`
fn layer_key(path: &Path) -> Option<String> {
    Some(path.parent()?.file_name()?.to_str()?.to_owned())
}

fn make_snapshot(folder: &Path, keys: &[String], image: &Image) -> Result<Snapshot, StoreError> {
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    for path in [folder, &upper, &work] {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making", path)(error));
            }
            _ => {}
        }
    }
    // Written before anything runs on it, so a runtime that restarts knows what the container stands on.
    let list = folder.join("layers");
    std::fs::write(&list, keys.join("\n")).map_err(io_error("writing", &list))?;
    let mut lower = image.layers.clone();
    lower.reverse();
    Ok(Snapshot { lower, upper, work })
}

/// Which layers each snapshot stands on, from the files that tell.
pub(super) fn read_snapshots(folder: &Path) -> Result<HashMap<String, Vec<String>>, StoreError> {
    let mut snapshots = HashMap::new();
    for entry in std::fs::read_dir(folder).map_err(io_error("listing", folder))?.flatten() {
        let list = std::fs::read_to_string(entry.path().join("layers")).unwrap_or_default();
        let keys = list.lines().map(str::to_owned).collect();
        snapshots.insert(entry.file_name().to_string_lossy().into_owned(), keys);
    }
    Ok(snapshots)
}
