//! What work in progress holds: layers that must stay, and folders that must go.
use std::path::PathBuf;

use super::store::Store;
use super::tree;

/// Keeps a layer, there or still to come, from being collected.
#[derive(Debug)]
pub(super) struct Pin {
    store: Store,
    key: String,
}

impl Pin {
    pub(super) fn new(store: Store, key: String) -> Self {
        Self { store, key }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut catalog = self.store.catalog();
        if let Some(count) = catalog.pins.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                catalog.pins.remove(&self.key);
            }
        }
    }
}

/// A folder for work in progress.
#[derive(Debug)]
pub(super) struct Workspace {
    store: Store,
    pub(super) path: PathBuf,
}

impl Workspace {
    pub(super) fn new(store: Store, path: PathBuf) -> Self {
        Self { store, path }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = self.store.discard(&self.path) {
            tracing::warn!(%error, "a temporary folder stays until the next start");
        }
        // Removal takes its time, and this may be the thread that serves everybody.
        let trash = self.store.0.root.join("trash");
        std::thread::spawn(move || tree::empty(&trash));
    }
}
