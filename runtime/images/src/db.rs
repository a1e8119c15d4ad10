//! The metadata on disk: which layers and images there are, in an embedded database whose commits survive a
//! power cut.
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");
const CONFIGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("configs");

/// How much room is kept for the file's growth; it doubles each time.
const LEAST_ROOM: u64 = 256 << 10;
const MOST_ROOM: u64 = 8 << 20;
/// How many damaged files are kept for whoever wants to know what happened.
const DAMAGED_KEPT: usize = 2;

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

impl Change {
    /// About how much it adds to the database, in bytes.
    fn added(&self) -> u64 {
        match self {
            Self::PutImage(_, config) => (config.len() + 1024) as u64,
            Self::PutLayer(..) => 1024,
            Self::RemoveImage(_) | Self::RemoveLayer(_) => 0,
        }
    }
}

/// Why the metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("image metadata: {0}")]
    Database(String, #[source] Box<redb::Error>),
    #[error("image metadata: record {0:?} is damaged")]
    Record(String),
    #[error("image metadata: {0}: the database gave up on what it found in its file")]
    Panicked(String),
    #[error("image metadata: putting a damaged file aside")]
    Aside(#[source] io::Error),
    #[error("image metadata: making room for more records")]
    Room(#[source] io::Error),
}

impl DbError {
    /// Whether the file itself is at fault, so that the same call will never succeed on it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Record(_) | Self::Panicked(_) => true,
            Self::Database(_, error) => is_damage(error),
            Self::Aside(_) | Self::Room(_) => false,
        }
    }
}

fn is_damage(error: &redb::Error) -> bool {
    use redb::Error::{
        Corrupted, Io, RepairAborted, TableDoesNotExist, TableIsMultimap, TableIsNotMultimap,
        TableTypeMismatch, TypeDefinitionChanged, UpgradeRequired,
    };
    match error {
        // A full disk or too many open files say nothing about what is in the file; a sector that cannot be
        // read does.
        Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
                || error.raw_os_error() == Some(nix::errno::Errno::EIO as i32)
        }
        Corrupted(_) | RepairAborted | UpgradeRequired(_) | TableDoesNotExist(_) => true,
        TableTypeMismatch { .. } | TableIsMultimap(_) | TableIsNotMultimap(_) => true,
        TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

/// The database. A failed write leaves an open one useless, which then is opened anew for the next call.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    open: Mutex<Option<Database>>,
}

impl Db {
    /// Opens or makes the database, and checks every page of it.
    ///
    /// # Errors
    /// When the file is no database of ours, is damaged or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let mut database = attempt("opening", || open(path))?;
        match attempt("checking", || Ok(database.check_integrity()?)) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("image metadata was left half written and is as before that"),
            Err(error) => {
                close(database);
                return Err(error);
            }
        }
        let db = Self { path: path.to_path_buf(), open: Mutex::new(Some(database)) };
        if let Err(error) = db.keep_room(0) {
            tracing::warn!(%error, "no room is kept for image metadata, so there will be no more images");
        }
        Ok(db)
    }

    /// Writes all changes or none; they are on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing; nothing has changed then.
    pub fn commit(&self, changes: &[Change]) -> Result<(), DbError> {
        // What takes away may use the room that what adds must leave.
        let added: u64 = changes.iter().map(Change::added).sum();
        if added > 0 {
            self.keep_room(added).map_err(DbError::Room)?;
        }
        self.with("writing", |database| write(database, changes))
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
        self.with("reading", |database| {
            let table = database.begin_read()?.open_table(CONFIGS)?;
            Ok(table.get(id)?.map(|value| value.value().to_vec()))
        })
    }

    fn all<T: for<'a> Deserialize<'a>>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
    ) -> Result<Vec<(String, T)>, DbError> {
        let rows = self.with("reading", |database| {
            let table = database.begin_read()?.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        let decode = |(key, value): (String, Vec<u8>)| match serde_json::from_slice(&value) {
            Ok(record) => Ok((key, record)),
            Err(_) => Err(DbError::Record(key)),
        };
        rows.into_iter().map(decode).collect()
    }

    fn with<T>(
        &self,
        what: &str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DbError> {
        let mut slot = self.slot();
        let database = match slot.take() {
            Some(database) => database,
            None => attempt(what, || open(&self.path))?,
        };
        match attempt(what, || work(&database)) {
            Ok(value) => {
                *slot = Some(database);
                Ok(value)
            }
            Err(error) => {
                close(database);
                Err(error)
            }
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Database>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the file aside and begins another one with these records, which is on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or failing; the damaged file is in its place then.
    pub fn replace(&self, records: &[Change]) -> Result<(), DbError> {
        let mut slot = self.slot();
        if let Some(database) = slot.take() {
            close(database);
        }
        let unfinished = self.path.with_extension("new");
        let fill = || -> Result<(), redb::Error> {
            let database = fresh(&unfinished)?;
            write(&database, records)
        };
        attempt("writing all of it anew", fill)?;
        set_aside(&self.path).and_then(|_| put_in_place(&unfinished, &self.path)).map_err(DbError::Aside)
    }

    /// Has the file system keep blocks for what the file will grow by next, with so many bytes in further
    /// records, so that images can still be removed when the disk is full. The file doubles, or grows by
    /// twice the power of two that a record fits into.
    ///
    /// # Errors
    /// When there is no space; where the file system cannot keep any, nothing happens.
    fn keep_room(&self, added: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let room = length.clamp(LEAST_ROOM, MOST_ROOM) + 4 * added;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length + room) {
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Runs a call into the database, which may give up by a panic on what a damaged file tells it.
fn attempt<T>(what: &str, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, DbError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| DbError::Database(what.to_owned(), Box::new(error))),
        Err(_) => Err(DbError::Panicked(what.to_owned())),
    }
}

/// Closes what may be damaged: closing writes, too.
fn close(database: Database) {
    if catch_unwind(AssertUnwindSafe(move || drop(database))).is_err() {
        tracing::warn!("the image metadata's file could not be closed in order");
    }
}

/// An open database that has our tables. A new one gets its name when it is whole: one that a power cut has
/// left half made would never open again.
fn open(path: &Path) -> Result<Database, redb::Error> {
    if !path.exists() {
        let unfinished = path.with_extension("new");
        drop(fresh(&unfinished)?);
        put_in_place(&unfinished, path).map_err(redb::Error::Io)?;
    }
    open_or_make(path)
}

/// A new database without records, in the place of what may lie there.
fn fresh(path: &Path) -> Result<Database, redb::Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(redb::Error::Io(error)),
        _ => open_or_make(path),
    }
}

fn put_in_place(unfinished: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(unfinished, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Renames a damaged file, and removes those of before but for a few: they take space that nobody may ever
/// look at.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.damaged-");
    let aside = path.with_file_name(format!("{prefix}{seconds}"));
    std::fs::rename(path, &aside)?;
    let mut older: Vec<PathBuf> = set_aside_before(folder_of(path), &prefix)?;
    older.retain(|other| *other != aside);
    older.sort_by_key(|other| (other.as_os_str().len(), other.clone()));
    for other in older.iter().rev().skip(DAMAGED_KEPT - 1) {
        std::fs::remove_file(other)?;
    }
    Ok(aside)
}

fn set_aside_before(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(ours.map(|entry| entry.path()).collect())
}

/// Gives up the files of [`set_aside`], where the space is needed more than they are.
pub(super) fn drop_set_aside(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for other in set_aside_before(folder_of(path), &format!("{name}.damaged-")).unwrap_or_default() {
        if let Err(error) = std::fs::remove_file(&other) {
            tracing::warn!(path = %other.display(), %error, "remove a damaged file of image metadata");
        }
    }
}

fn open_or_make(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(256 << 10).create(path)?;
    // Written once only: a full disk must not keep the runtime from starting.
    let transaction = database.begin_read()?;
    let there = [IMAGES, LAYERS, CONFIGS].iter().all(|table| transaction.open_table(*table).is_ok());
    drop(transaction);
    if !there {
        let transaction = database.begin_write()?;
        for table in [IMAGES, LAYERS, CONFIGS] {
            transaction.open_table(table)?;
        }
        transaction.commit()?;
    }
    Ok(database)
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut images = transaction.open_table(IMAGES)?;
        let mut layers = transaction.open_table(LAYERS)?;
        let mut configs = transaction.open_table(CONFIGS)?;
        for change in changes {
            match change {
                Change::PutImage(record, config) => {
                    images.insert(record.id.as_str(), encode(record).as_slice())?;
                    configs.insert(record.id.as_str(), config.as_slice())?;
                }
                Change::RemoveImage(id) => {
                    images.remove(id.as_str())?;
                    configs.remove(id.as_str())?;
                }
                Change::PutLayer(key, record) => {
                    layers.insert(key.as_str(), encode(record).as_slice())?;
                }
                Change::RemoveLayer(key) => {
                    layers.remove(key.as_str())?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

#[cfg(test)]
mod tests;
