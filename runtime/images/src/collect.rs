//! What goes: layers that nothing needs, and what killed pulls have left.
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use super::db::{Change, LayerRecord};
use super::store::{Store, StoreError, io_error, now, unique};
use super::tree;
use node_kit::errors::Chain;

/// How long a layer that no image names is kept for the next try of the pull that left it, in seconds.
const ORPHAN_LIFE: u64 = 3600;

/// Which of the layers that nothing needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Orphans<'a> {
    All,
    /// Older than [`ORPHAN_LIFE`].
    Old,
    Of(&'a [String]),
}

impl Store {
    /// Removes what a killed runtime left: layers without a record, records without a layer. A layer that a
    /// container stands on is never removed, and when the metadata begins `anew`, no layer: images that are
    /// pulled again need not fetch it.
    pub(super) fn tidy(&self, anew: bool) -> Result<(), StoreError> {
        let layers = self.0.root.join("layers");
        let (mut found, mut unrecorded) = (HashSet::new(), Vec::new());
        let used: HashSet<String> = self.catalog().snapshots.values().flatten().cloned().collect();
        for entry in std::fs::read_dir(&layers).map_err(io_error("listing", &layers))? {
            let entry = entry.map_err(io_error("listing", &layers))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.catalog().layers.contains_key(&name) {
                found.insert(name);
            } else if anew || used.contains(&name) {
                unrecorded.push(name);
            } else {
                self.discard(&entry.path())?;
            }
        }
        self.record_again(&unrecorded);
        found.extend(unrecorded);
        let lost: Vec<_> =
            self.catalog().layers.keys().filter(|key| !found.contains(*key)).cloned().collect();
        let broken: Vec<_> = {
            let catalog = self.catalog();
            let images = catalog.images.values();
            images.filter(|i| i.layers.iter().any(|l| lost.contains(l))).map(|i| i.id.clone()).collect()
        };
        let mut changes: Vec<_> = lost.into_iter().map(Change::RemoveLayer).collect();
        changes.extend(broken.into_iter().map(Change::RemoveImage));
        if !changes.is_empty() {
            tracing::warn!(
                changes = changes.len(),
                "image metadata named layers that are not there; dropping them"
            );
            self.forget(changes);
        }
        self.collect(Orphans::Old)?;
        self.empty_trash()
    }

    /// Drops records of what is not there any more. On a disk that takes nothing they go with the next start.
    fn forget(&self, changes: Vec<Change>) {
        if let Err(error) = self.write(&changes) {
            tracing::warn!(error = %Chain(&error), "image metadata still names what is not there");
        }
        self.show(changes);
    }

    /// Removes layers that no image, pull or container needs.
    pub(super) fn collect(&self, which: Orphans<'_>) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let victims: Vec<String> = {
            let mut catalog = self.catalog();
            let images = catalog.images.values().flat_map(|image| &image.layers);
            let snapshots = catalog.snapshots.values().flatten();
            let used: HashSet<&String> = images.chain(snapshots).chain(catalog.pins.keys()).collect();
            let meant = |key: &String, record: &LayerRecord| match which {
                Orphans::All => true,
                Orphans::Old => record.created.saturating_add(ORPHAN_LIFE) <= now(),
                Orphans::Of(keys) => keys.contains(key),
            };
            let unused =
                catalog.layers.iter().filter(|(key, record)| !used.contains(key) && meant(key, record));
            let victims: Vec<String> = unused.map(|(key, _)| key.clone()).collect();
            // From here on nobody can begin to rely on them.
            for victim in &victims {
                catalog.layers.remove(victim);
            }
            victims
        };
        if victims.is_empty() {
            return Ok(());
        }
        // Before their records: a layer without a record cannot be found any more, a record without a layer
        // is dropped at the next start.
        let gone = victims.iter().map(|key| self.discard(&self.0.root.join("layers").join(key)));
        let gone = gone.fold(Ok(()), Result::and);
        self.forget(victims.into_iter().map(Change::RemoveLayer).collect());
        gone
    }

    /// Moves a folder to the trash, from where it can take its time to go.
    pub(super) fn discard(&self, path: &Path) -> Result<(), StoreError> {
        discard(&self.0.root, path)
    }

    pub(super) fn empty_trash(&self) -> Result<(), StoreError> {
        let trash = self.0.root.join("trash");
        tree::empty(&trash).map_err(|error| io_error("emptying", &trash)(error.into()))
    }
}

/// Removes what was under way when a former life of this process ended.
pub(super) fn clear(root: &Path) -> Result<(), StoreError> {
    let (temporary, trash) = (root.join("tmp"), root.join("trash"));
    for entry in std::fs::read_dir(&temporary).map_err(io_error("listing", &temporary))?.flatten() {
        discard(root, &entry.path())?;
    }
    tree::empty(&trash).map_err(|error| io_error("emptying", &trash)(error.into()))
}

fn discard(root: &Path, path: &Path) -> Result<(), StoreError> {
    match std::fs::rename(path, root.join("trash").join(unique())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", path)(error)),
        _ => Ok(()),
    }
}
