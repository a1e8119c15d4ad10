//! The metadata on disk: which layers and images there are, in an embedded database whose commits survive a power cut.
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");
const CONFIGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("configs");

/// An image's record, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `sha256:<hex>` of the config.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    /// Keys of layers, lowest first.
    pub layers: Vec<String>,
    /// Unpacked bytes.
    pub size: u64,
}

/// A layer's record, by its key: `diff id` in hex, or chain id where the layer leans on those below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub size: u64,
    pub inodes: u64,
    /// Seconds since 1970.
    pub created: u64,
}

/// One change of a commit.
#[derive(Debug)]
pub enum Change {
    PutImage(ImageRecord, Vec<u8>),
    RemoveImage(String),
    PutLayer(String, LayerRecord),
    RemoveLayer(String),
}

/// Why the metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("image metadata: {0}")]
    Database(String, #[source] Box<redb::Error>),
    #[error("image metadata: record {0:?} is damaged")]
    Record(String),
}

fn failed<E: Into<redb::Error>>(what: &str) -> impl FnOnce(E) -> DbError + '_ {
    move |error| DbError::Database(what.to_owned(), Box::new(error.into()))
}

/// The open database.
#[derive(Debug)]
pub struct Db(Database);

impl Db {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// When the file is no database of ours or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let db = Database::builder().set_cache_size(256 << 10).create(path).map_err(failed("opening"))?;
        let transaction = db.begin_write().map_err(failed("opening"))?;
        transaction.open_table(IMAGES).map_err(failed("opening"))?;
        transaction.open_table(LAYERS).map_err(failed("opening"))?;
        transaction.open_table(CONFIGS).map_err(failed("opening"))?;
        transaction.commit().map_err(failed("opening"))?;
        Ok(Self(db))
    }

    /// Writes all changes or none; they are on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing; nothing has changed then.
    pub fn commit(&self, changes: &[Change]) -> Result<(), DbError> {
        let transaction = self.0.begin_write().map_err(failed("writing"))?;
        {
            let mut images = transaction.open_table(IMAGES).map_err(failed("writing"))?;
            let mut layers = transaction.open_table(LAYERS).map_err(failed("writing"))?;
            let mut configs = transaction.open_table(CONFIGS).map_err(failed("writing"))?;
            for change in changes {
                match change {
                    Change::PutImage(record, config) => {
                        images
                            .insert(record.id.as_str(), encode(record).as_slice())
                            .map_err(failed("writing"))?;
                        configs.insert(record.id.as_str(), config.as_slice()).map_err(failed("writing"))?;
                    }
                    Change::RemoveImage(id) => {
                        images.remove(id.as_str()).map_err(failed("writing"))?;
                        configs.remove(id.as_str()).map_err(failed("writing"))?;
                    }
                    Change::PutLayer(key, record) => {
                        layers.insert(key.as_str(), encode(record).as_slice()).map_err(failed("writing"))?;
                    }
                    Change::RemoveLayer(key) => {
                        layers.remove(key.as_str()).map_err(failed("writing"))?;
                    }
                }
            }
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// Every image's record.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn images(&self) -> Result<Vec<(String, ImageRecord)>, DbError> {
        self.all(IMAGES)
    }

    /// Every layer's record.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn layers(&self) -> Result<Vec<(String, LayerRecord)>, DbError> {
        self.all(LAYERS)
    }

    /// The config of an image, as its registry had it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn config(&self, id: &str) -> Result<Option<Vec<u8>>, DbError> {
        let transaction = self.0.begin_read().map_err(failed("reading"))?;
        let table = transaction.open_table(CONFIGS).map_err(failed("reading"))?;
        Ok(table.get(id).map_err(failed("reading"))?.map(|value| value.value().to_vec()))
    }

    fn all<T: for<'a> Deserialize<'a>>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
    ) -> Result<Vec<(String, T)>, DbError> {
        let transaction = self.0.begin_read().map_err(failed("reading"))?;
        let table = transaction.open_table(table).map_err(failed("reading"))?;
        let mut records = Vec::new();
        for row in table.iter().map_err(failed("reading"))? {
            let (key, value) = row.map_err(failed("reading"))?;
            let key = key.value().to_owned();
            let record = serde_json::from_slice(value.value()).map_err(|_| DbError::Record(key.clone()))?;
            records.push((key, record));
        }
        Ok(records)
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
