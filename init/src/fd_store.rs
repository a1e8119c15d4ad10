//! The fd store: descriptors that outlive the service that made them.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The most descriptors kept in all.
pub const CAPACITY: usize = 16_384;
const LONGEST_NAME: usize = 256;

/// Cloneable handle to the one store.
#[derive(Debug, Clone, Default)]
pub struct FdStore {
    entries: Arc<Mutex<BTreeMap<String, Vec<OwnedFd>>>>,
}

/// Why descriptors were not stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error("a name is 1 to {LONGEST_NAME} bytes long")]
    Name,
    #[error("the request carries no descriptor")]
    Empty,
    #[error("the store holds {CAPACITY} descriptors already; remove some")]
    Full,
}

impl FdStore {
    /// Stores descriptors under a name, in place of what was there.
    ///
    /// # Errors
    /// When the name is unfit, there is nothing to store, or no room; then nothing changes.
    pub fn put(&self, name: &str, descriptors: Vec<OwnedFd>) -> Result<(), PutError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(PutError::Name);
        }
        if descriptors.is_empty() {
            return Err(PutError::Empty);
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize = entries.iter().filter(|(n, _)| *n != name).map(|(_, d)| d.len()).sum();
        if others + descriptors.len() > CAPACITY {
            return Err(PutError::Full);
        }
        entries.insert(name.to_owned(), descriptors);
        Ok(())
    }

    /// Duplicates of what is stored under a name.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated (PID 1's limit).
    pub fn get(&self, name: &str) -> std::io::Result<Option<Vec<OwnedFd>>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).map(|stored| stored.iter().map(OwnedFd::try_clone).collect()).transpose()
    }

    /// Closes what is stored under a name; an unknown name is no error.
    pub fn remove(&self, name: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Every name.
    pub fn names(&self) -> Vec<String> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_stored_pipe_still_works_after_its_maker_is_gone() {
        let store = FdStore::default();
        let (mut read, write) = std::io::pipe().unwrap();
        store.put("c1/stdout", vec![write.into()]).unwrap();
        let again = store.get("c1/stdout").unwrap().unwrap();
        let mut file = std::fs::File::from(again.into_iter().next().unwrap());
        file.write_all(b"hello").unwrap();
        drop(file);
        store.remove("c1/stdout");
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(store.get("c1/stdout").unwrap().is_none());
    }

    #[test]
    fn unfit_requests_change_nothing() {
        let store = FdStore::default();
        assert_eq!(store.put("", vec![]), Err(PutError::Name));
        assert_eq!(store.put("a", vec![]), Err(PutError::Empty));
        assert!(store.names().is_empty());
    }
}
