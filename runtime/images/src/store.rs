//! The store: which images there are, where their layers lie, and which of them are in use.
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use machine::config::Registry;
use oci_spec::image::ImageConfiguration;

use super::bundle::Bundle;
use super::collect::{Orphans, clear};
use super::db::{Change, Db, DbError, ImageRecord, LayerRecord};
use super::heal;
use super::measure::Measures;
use super::pool::Pool;
use super::reference::{Reference, ShortNames};
use super::registry::Registries;
use super::snapshot::read_snapshots;
use super::workspace::{Pin, Workspace};
use super::{Image, Limits, Settings, Usage};

/// The most layers that are unpacked at once, of all images together. Each is there as a whole, so none of
/// them waits for a registry.
const UNPACKERS: usize = 32;
/// Threads that write what pulls bring.
const DISK_THREADS: usize = 4;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("image store: {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("image {0} is part of the OS image and cannot be removed")]
    Pinned(String),
    #[error("image {0}: its config is not what the image specification asks for")]
    Config(String, #[source] oci_spec::OciSpecError),
    #[error("image {0} was removed meanwhile; pull it again")]
    Gone(String),
    #[error("{0:?} is no name for a snapshot")]
    SnapshotId(String),
}

pub(super) fn io_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { operation, path: path.to_path_buf(), source }
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) images: BTreeMap<String, ImageRecord>,
    pub(super) layers: HashMap<String, LayerRecord>,
    /// Layers that pulls and imports under way rely on.
    pub(super) pins: HashMap<String, usize>,
    /// Layers that containers' snapshots lie on.
    pub(super) snapshots: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) root: PathBuf,
    pub(super) limits: Limits,
    pub(super) registries: Registries,
    bundle: Bundle,
    pub(super) db: Db,
    catalog: Mutex<Catalog>,
    /// Held while the metadata changes, on a thread that may block.
    pub(super) writer: Mutex<()>,
    /// One pull of a layer from one registry at a time; later ones find it done.
    pub(super) layer_locks: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
    /// For the threads that unpack.
    pub(super) unpackers: Arc<tokio::sync::Semaphore>,
    /// For what pulls and imports write besides.
    pub(super) disk: Arc<Pool>,
    /// For the archives of imports, which come as slowly as their senders like.
    pub(super) archives: Pool,
    pub(super) measures: Measures,
}

/// The images of this node; a cheap handle.
#[derive(Debug, Clone)]
pub struct Store(pub(super) Arc<Inner>);

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Store {
    /// Opens the store below `state`, with the images of `bundle` in it, and removes what killed pulls have
    /// left. Blocks.
    ///
    /// # Errors
    /// When the metadata or the folders cannot be read or made.
    pub fn open(state: &Path, bundle: &Path, registries: Vec<Registry>) -> Result<Self, StoreError> {
        Self::open_with(state, bundle, Settings { registries, ..Settings::default() })
    }

    /// As [`Store::open`], with limits of the caller's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(state: &Path, bundle: &Path, settings: Settings) -> Result<Self, StoreError> {
        for folder in ["layers", "snapshots", "tmp", "trash"] {
            let path = state.join(folder);
            std::fs::create_dir_all(&path).map_err(io_error("making", &path))?;
        }
        // Layers hold set-uid files of images: nobody but root looks inside.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(state, private).map_err(io_error("closing", state))?;
        // First, since a full disk could keep the metadata from opening.
        clear(state)?;
        let (metadata, snapshots) = (heal::open(state)?, state.join("snapshots"));
        let catalog = Catalog {
            images: metadata.images,
            layers: metadata.layers.into_iter().collect(),
            snapshots: read_snapshots(&snapshots)?,
            ..Catalog::default()
        };
        let store = Self(Arc::new(Inner {
            root: state.to_path_buf(),
            limits: settings.limits,
            registries: Registries::new(settings.registries, settings.patience, settings.cluster)
                .map_err(io_error("starting threads for", Path::new("names of registries")))?,
            bundle: Bundle::open(bundle).map_err(io_error("reading bundle", bundle))?,
            db: metadata.db,
            archives: Pool::new("image-archives", super::import::PARALLEL)
                .map_err(io_error("starting threads for", state))?,
            measures: Measures::start(&snapshots, catalog.snapshots.keys())
                .map_err(io_error("starting a thread for", &snapshots))?,
            catalog: Mutex::new(catalog),
            writer: Mutex::new(()),
            layer_locks: Mutex::default(),
            unpackers: Arc::new(tokio::sync::Semaphore::new(UNPACKERS)),
            disk: Arc::new(
                Pool::new("image-disk", DISK_THREADS).map_err(io_error("starting threads for", state))?,
            ),
        }));
        store.tidy(metadata.anew)?;
        Ok(store)
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.0.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where names without a registry belong.
    pub fn short_names(&self) -> &ShortNames {
        self.0.registries.short_names()
    }

    /// The image of an id, an id's first 12 or more hex digits, or a name. Reads the config from disk.
    ///
    /// # Errors
    /// When the metadata cannot be read or the config is malformed.
    pub fn resolve(&self, name_or_id: &str) -> Result<Option<Image>, StoreError> {
        self.find(name_or_id).map(|id| self.image(&id)).transpose().map(Option::flatten)
    }

    /// Every image; the bundle's first.
    ///
    /// # Errors
    /// As [`Store::resolve`].
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut ids: Vec<String> = self.0.bundle.images.keys().cloned().collect();
        ids.extend(
            self.catalog().images.keys().filter(|id| !self.0.bundle.images.contains_key(*id)).cloned(),
        );
        ids.iter().filter_map(|id| self.image(id).transpose()).collect()
    }

    /// The id behind a name.
    fn find(&self, name: &str) -> Option<String> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() >= 12 && hex.len() <= 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let prefix = format!("sha256:{hex}");
            let catalog = self.catalog();
            let mut ids: Vec<&String> = self
                .0
                .bundle
                .images
                .keys()
                .chain(catalog.images.keys())
                .filter(|id| id.starts_with(&prefix))
                .collect();
            ids.dedup();
            if let [id] = ids[..] {
                return Some(id.clone());
            }
        }
        let name = Reference::parse(name, self.short_names()).ok()?.to_string();
        let catalog = self.catalog();
        let named = |record: &&ImageRecord| record.tags.contains(&name) || record.digests.contains(&name);
        if let Some(record) = catalog.images.values().find(named) {
            return Some(record.id.clone());
        }
        let bundled =
            self.0.bundle.images.values().find(|image| self.bundle_tags(&image.names).contains(&name));
        bundled.map(|image| image.config.clone())
    }

    fn bundle_tags(&self, names: &[String]) -> Vec<String> {
        names.iter().filter_map(|n| Some(Reference::parse(n, self.short_names()).ok()?.to_string())).collect()
    }

    /// The config of an image, as bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn raw_config(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.0.bundle.images.get(id) {
            Some(image) => {
                self.0.bundle.config(image).map(Some).map_err(io_error("reading config", Path::new(id)))
            }
            None => self.stored_config(id),
        }
    }

    fn image(&self, id: &str) -> Result<Option<Image>, StoreError> {
        let record = self.catalog().images.get(id).cloned();
        let bundled = self.0.bundle.images.get(id);
        if record.is_none() && bundled.is_none() {
            return Ok(None);
        }
        let Some(raw) = self.raw_config(id)? else { return Ok(None) };
        let config =
            ImageConfiguration::from_reader(raw.as_slice()).map_err(|e| StoreError::Config(id.into(), e))?;
        let mut image = Image {
            id: id.into(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            config,
            size: 0,
            pinned: bundled.is_some(),
            layers: Vec::new(),
        };
        if let Some(record) = record {
            image.layers = record.layers.iter().map(|key| self.layer_path(key)).collect();
            (image.repo_tags, image.repo_digests, image.size) = (record.tags, record.digests, record.size);
        }
        if let Some(bundled) = bundled {
            for tag in self.bundle_tags(&bundled.names) {
                // A name that was pulled again since speaks of the newer image.
                let taken = self.catalog().images.values().any(|i| i.id != id && i.tags.contains(&tag));
                if !taken && !image.repo_tags.contains(&tag) {
                    image.repo_tags.push(tag);
                }
            }
            image.layers = self.0.bundle.layers(bundled);
            image.size = bundled.size;
        }
        Ok(Some(image))
    }

    pub(super) fn layer_path(&self, key: &str) -> PathBuf {
        self.0.root.join("layers").join(key).join("fs")
    }

    /// Removes an image with all its names, and the layers that nothing else needs. Unknown names are no
    /// error. Blocks.
    ///
    /// # Errors
    /// For an image of the bundle, and when the disk fails.
    pub fn remove(&self, name_or_id: &str) -> Result<(), StoreError> {
        let Some(id) = self.find(name_or_id) else { return Ok(()) };
        if self.0.bundle.images.contains_key(&id) {
            return Err(StoreError::Pinned(name_or_id.into()));
        }
        self.commit(vec![Change::RemoveImage(id)])?;
        self.collect(Orphans::All)?;
        self.empty_trash()
    }

    /// Writes changes to disk, then shows them.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit_locked(changes)
    }

    fn commit_locked(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.write(&changes)?;
        self.show(changes);
        Ok(())
    }

    pub(super) fn show(&self, changes: Vec<Change>) {
        let mut catalog = self.catalog();
        for change in changes {
            match change {
                Change::PutImage(record, _) => drop(catalog.images.insert(record.id.clone(), record)),
                Change::RemoveImage(id) => drop(catalog.images.remove(&id)),
                Change::PutLayer(key, record) => drop(catalog.layers.insert(key, record)),
                Change::RemoveLayer(key) => drop(catalog.layers.remove(&key)),
            }
        }
    }

    /// Makes an image known: its names leave whichever image had them. Blocks.
    pub(super) fn commit_image(&self, mut record: ImageRecord, config: Vec<u8>) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        let others: Vec<ImageRecord> = self.catalog().images.values().cloned().collect();
        for mut other in others {
            if other.id == record.id {
                merge(&mut record.tags, other.tags);
                merge(&mut record.digests, other.digests);
            } else if other.tags.iter().any(|tag| record.tags.contains(tag)) {
                other.tags.retain(|tag| !record.tags.contains(tag));
                // One whose config is damaged loses no more than it has lost already.
                if let Ok(Some(config)) = self.0.db.config(&other.id) {
                    changes.push(Change::PutImage(other, config));
                }
            }
        }
        changes.push(Change::PutImage(record, config));
        self.commit_locked(changes)
    }

    /// Takes over an unpacked layer from `folder`, which holds `fs`: synced, renamed, recorded. Blocks.
    pub(super) fn adopt_layer(&self, key: &str, folder: &Path, usage: Usage) -> Result<(), StoreError> {
        let fd = std::fs::File::open(folder).map_err(io_error("opening", folder))?;
        nix::unistd::syncfs(&fd).map_err(|e| io_error("syncing", folder)(e.into()))?;
        let layers = self.0.root.join("layers");
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.catalog().layers.contains_key(key) {
            return self.discard(folder);
        }
        let place = layers.join(key);
        // What nobody has on record.
        self.discard(&place)?;
        std::fs::rename(folder, &place).map_err(io_error("renaming", folder))?;
        let record = LayerRecord { size: usage.bytes, inodes: usage.inodes, created: now() };
        let recorded = std::fs::File::open(&layers)
            .and_then(|f| f.sync_all())
            .map_err(io_error("syncing", &layers))
            .and_then(|()| self.commit_locked(vec![Change::PutLayer(key.into(), record)]));
        if recorded.is_err() {
            // Its space is needed by what the disk is full of.
            self.discard(&place)?;
        }
        recorded
    }

    /// The size of a layer that is there; it stays until the pin is dropped.
    pub(super) fn pin(&self, key: &str) -> (Pin, Option<u64>) {
        let mut catalog = self.catalog();
        *catalog.pins.entry(key.into()).or_default() += 1;
        let size = catalog.layers.get(key).map(|record| record.size);
        (Pin::new(self.clone(), key.into()), size)
    }

    /// A fresh folder below `tmp`, removed with the guard.
    pub(super) fn workspace(&self) -> Result<Workspace, StoreError> {
        let path = self.0.root.join("tmp").join(unique());
        std::fs::create_dir(&path).map_err(io_error("making", &path))?;
        Ok(Workspace::new(self.clone(), path))
    }

    /// The folder that layers and snapshots lie in, and what the layers take together.
    pub fn fs_usage(&self) -> (PathBuf, Usage) {
        let catalog = self.catalog();
        let sum = |field: fn(&LayerRecord) -> u64| catalog.layers.values().map(field).sum();
        (self.0.root.clone(), Usage { bytes: sum(|r| r.size), inodes: sum(|r| r.inodes) })
    }
}

fn merge(into: &mut Vec<String>, more: Vec<String>) {
    for one in more {
        if !into.contains(&one) {
            into.push(one);
        }
    }
}

pub(super) fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!(
        "{}-{}-{number}",
        std::process::id(),
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
    )
}

#[cfg(test)]
mod tests;
