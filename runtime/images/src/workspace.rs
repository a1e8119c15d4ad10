//! What work in progress holds: layers that must stay, and folders that must go.
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::collect::Orphans;
use super::store::Store;
use super::tree;
use node_kit::errors::Chain;

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
    /// Layers that nobody will come back for; they go with the folder unless something else needs them.
    pub(super) hopeless: Vec<String>,
}

impl Workspace {
    pub(super) fn new(store: Store, path: PathBuf) -> Self {
        Self { store, path, hopeless: Vec::new() }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = self.store.discard(&self.path) {
            tracing::warn!(%error, "a temporary folder stays until the next start");
        }
        // Removal takes its time, and this may be the thread that serves everybody.
        let hopeless = std::mem::take(&mut self.hopeless);
        let thread = std::thread::Builder::new().name("clear".into());
        let started = if hopeless.is_empty() {
            let trash = self.store.0.root.join("trash");
            thread.spawn(move || {
                // What cannot go now goes with the next removal.
                let _ = tree::empty(&trash);
            })
        } else {
            let store = self.store.clone();
            thread.spawn(move || {
                let cleared = store.collect(Orphans::Of(&hopeless)).and_then(|()| store.empty_trash());
                if let Err(error) = cleared {
                    tracing::warn!(error = %Chain(&error), "remove layers of an image that was refused");
                }
            })
        };
        if let Err(error) = started {
            tracing::warn!(%error, "what is in the trash stays until something else is removed");
        }
    }
}

/// What the work on one image holds, until the last of its layers is done with.
#[derive(Debug)]
pub(super) struct Work {
    /// Keeps what is there, or comes, until the image's record names it.
    pub(super) pins: Vec<Pin>,
    pub(super) workspace: Workspace,
    /// Set when trying again will not help: what was stored of the image goes then.
    pub(super) hopeless: AtomicBool,
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.hopeless.load(Ordering::Relaxed) {
            self.workspace.hopeless = self.pins.iter().map(|pin| pin.key.clone()).collect();
        }
        self.pins.clear();
    }
}
