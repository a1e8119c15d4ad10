//! What is done about damaged metadata. It is a cache of what registries and archives hold: it is put aside
//! and begun anew with what is known, so that neither the runtime nor its containers stop, and nobody has to
//! come by.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::db::{self, Change, Db, DbError, ImageRecord, LayerRecord};
use super::registry::digest_of;
use super::store::{Store, StoreError, now};
use super::tree;
use node_kit::errors::Chain;

/// The metadata as it is on disk when the store opens.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) db: Db,
    pub(super) images: BTreeMap<String, ImageRecord>,
    pub(super) layers: Vec<(String, LayerRecord)>,
    /// The former one was damaged.
    pub(super) anew: bool,
}

/// The file below the state folder.
fn file(state: &Path) -> PathBuf {
    state.join("images.redb")
}

fn read(path: &Path) -> Result<Metadata, DbError> {
    let db = Db::open(path)?;
    let (images, layers) = (db.images()?.into_iter().collect(), db.layers()?);
    Ok(Metadata { db, images, layers, anew: false })
}

/// Opens the metadata below `state`, or begins it anew where it is damaged.
///
/// # Errors
/// When the disk is full or failing.
pub(super) fn open(state: &Path) -> Result<Metadata, DbError> {
    let path = file(state);
    let damage = match read(&path) {
        Err(error) if error.is_damage() => error,
        other => return other,
    };
    let aside = db::set_aside(&path).map_err(DbError::Aside)?;
    tracing::error!(
        error = %Chain(&damage), kept = %aside.display(),
        "the image metadata is damaged and begins anew: images must be pulled again, layers are kept for them"
    );
    let metadata = match read(&path) {
        Err(error) if is_full(&error) => {
            db::drop_set_aside(&path);
            read(&path)
        }
        other => other,
    };
    Ok(Metadata { anew: true, ..metadata? })
}

fn is_full(error: &DbError) -> bool {
    let DbError::Database(_, error) = error else { return false };
    matches!(&**error, redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
}

impl Store {
    /// Puts layers on record again that lie there without one: `keys`. A layer's folder has its name only
    /// when it is whole and on disk.
    pub(super) fn record_again(&self, keys: &[String]) {
        for key in keys {
            let usage = match tree::usage(&self.layer_path(key)) {
                Ok(usage) => usage,
                Err(error) => {
                    tracing::warn!(layer = key, %error, "measure a layer without a record");
                    continue;
                }
            };
            let record = LayerRecord { size: usage.bytes, inodes: usage.inodes, created: now() };
            // One by one: a large layer takes long to measure, and who is ended meanwhile does not begin again.
            let change = [Change::PutLayer(key.clone(), record)];
            if let Err(error) = self.0.db.commit(&change) {
                tracing::warn!(
                    layer = key,
                    error = %Chain(&error),
                    "a layer is on record until the next start only"
                );
            }
            self.show(change.into());
        }
        if !keys.is_empty() {
            tracing::warn!(layers = keys.len(), "layers without a record are on record again");
        }
    }

    /// The config of an image, as bytes. One that is damaged has the metadata written anew, and the image
    /// goes.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub(super) fn stored_config(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match whole_config(&self.0.db, id) {
            Err(error) if error.is_damage() => {
                let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever was faster has healed it.
                match whole_config(&self.0.db, id) {
                    Err(error) if error.is_damage() => self.heal(&error)?,
                    other => return Ok(other?),
                }
                Ok(whole_config(&self.0.db, id)?)
            }
            other => Ok(other?),
        }
    }

    /// Writes changes, with the writer's lock held; where the file is damaged, once more to one that is not.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        match self.0.db.commit(changes) {
            Err(error) if error.is_damage() => {
                self.heal(&error)?;
                Ok(self.0.db.commit(changes)?)
            }
            other => Ok(other?),
        }
    }

    /// Writes the metadata anew from memory, with the writer's lock held. Configs are on disk only: an image
    /// whose config is lost goes.
    fn heal(&self, damage: &DbError) -> Result<(), StoreError> {
        let (images, layers) = {
            let catalog = self.catalog();
            let images: Vec<ImageRecord> = catalog.images.values().cloned().collect();
            (images, catalog.layers.clone())
        };
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        for image in images {
            match whole_config(&self.0.db, &image.id) {
                Ok(Some(config)) => records.push(Change::PutImage(image, config)),
                _ => lost.push(image.id),
            }
        }
        records.extend(layers.into_iter().map(|(key, record)| Change::PutLayer(key, record)));
        tracing::error!(
            error = %Chain(damage),
            lost = lost.len(),
            "the image metadata is damaged and written anew: images that are lost must be pulled again"
        );
        self.0.db.replace(&records)?;
        self.show(lost.into_iter().map(Change::RemoveImage).collect());
        Ok(())
    }
}

/// A config that is what its image's id says.
fn whole_config(db: &Db, id: &str) -> Result<Option<Vec<u8>>, DbError> {
    let config = db.config(id)?;
    match &config {
        Some(bytes) if digest_of(bytes) != id => Err(DbError::Record(id.into())),
        _ => Ok(config),
    }
}
