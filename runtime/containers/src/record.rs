//! What is known of a sandbox or a container, in memory and on file.
//!
//! What is about to be made is on file first ([`Kept::update`]), so that whoever comes after a kill can undo
//! it. What has happened already, or is to go, is so whatever the file system says ([`Kept::declare`]): it is
//! told from memory, and the file follows as soon as there is room. So nothing that ends, is stopped or is
//! removed waits for room.
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_kit::tasks::sound;
use serde::Serialize;

use crate::state;

/// Between two attempts to write a record; each pause is twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A record and its file.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    folder: PathBuf,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    value: T,
    /// Whether the file says something older.
    behind: bool,
}

impl<T: Clone + Serialize> Kept<T> {
    /// Of what lies in `folder`; the file is as the value, or not there yet.
    pub(crate) fn new(folder: PathBuf, value: T) -> Self {
        Self { folder, inner: Mutex::new(Inner { value, behind: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Whole after every statement, so that a panic elsewhere does not matter.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads something of it.
    pub(crate) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.lock().value)
    }

    /// As it is now.
    pub(crate) fn get(&self) -> T {
        self.with(T::clone)
    }

    /// Changes the file, and then what is told.
    ///
    /// # Errors
    /// When the file cannot be written; nothing has changed then.
    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) -> io::Result<T> {
        let mut inner = self.lock();
        let mut next = inner.value.clone();
        change(&mut next);
        state::save(&self.folder, &next)?;
        *inner = Inner { value: next.clone(), behind: false };
        Ok(next)
    }

    /// Changes what is told, and then the file, if that takes it.
    ///
    /// # Errors
    /// When the file is left behind.
    pub(crate) fn declare(&self, change: impl FnOnce(&mut T)) -> io::Result<()> {
        let mut inner = self.lock();
        change(&mut inner.value);
        inner.behind = true;
        self.write(&mut inner)
    }

    /// Writes what the file lacks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn catch_up(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.behind { self.write(&mut inner) } else { Ok(()) }
    }

    fn write(&self, inner: &mut Inner<T>) -> io::Result<()> {
        match state::save(&self.folder, &inner.value) {
            // It was removed meanwhile, and nobody has to know any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.folder.exists() => {}
            result => result?,
        }
        inner.behind = false;
        Ok(())
    }

    /// Waits until the file says all that is told, or is gone.
    pub(crate) async fn on_file(&self) {
        let mut pause = FIRST_PAUSE;
        while self.catch_up().is_err() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl<T: Clone + Serialize + Send + 'static> Kept<T> {
    /// Declares a change, and sees to it that the file follows; returns what is told now, and whether the
    /// file follows already.
    pub(crate) fn declare_and_follow(self: &Arc<Self>, change: impl FnOnce(&mut T)) -> (T, bool) {
        let declared = self.declare(change);
        if let Err(error) = &declared {
            tracing::error!(folder = %self.folder.display(), %error, "write a record; it is told from memory, and written as soon as it can be");
            let kept = Arc::clone(self);
            sound("record", async move { kept.on_file().await });
        }
        (self.get(), declared.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn kept(folder: &tempfile::TempDir) -> Arc<Kept<u32>> {
        Arc::new(Kept::new(folder.path().to_owned(), 0))
    }

    fn on_file(folder: &tempfile::TempDir) -> Option<u32> {
        let bytes = fs::read(folder.path().join("record.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Where a record is written first, so that it cannot be.
    fn block(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join(".record.json.new0");
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn what_cannot_be_on_file_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        kept.update(|value| *value = 1).unwrap();
        block(&folder);
        assert!(kept.update(|value| *value = 2).is_err());
        assert_eq!((kept.get(), on_file(&folder)), (1, Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_happened_is_told_at_once_and_written_when_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        kept.update(|value| *value = 1).unwrap();
        let blocked = block(&folder);
        assert_eq!(kept.declare_and_follow(|value| *value = 2), (2, false));
        assert_eq!((kept.get(), on_file(&folder)), (2, Some(1)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(on_file(&folder), Some(1));
        fs::remove_dir(&blocked).unwrap();
        tokio::time::sleep(LONGEST_PAUSE).await;
        assert_eq!(on_file(&folder), Some(2));
        // And what comes later holds all of it.
        assert_eq!(kept.update(|value| *value += 1).unwrap(), 3);
        assert_eq!(on_file(&folder), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_writes_for_ever_what_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        block(&folder);
        assert!(kept.declare(|value| *value = 2).is_err());
        fs::remove_dir_all(folder.path()).unwrap();
        kept.on_file().await;
        assert!(!folder.path().exists());
    }
}
