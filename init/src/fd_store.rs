//! The fd store: descriptors that outlive the service that made them.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The most descriptors kept in all: what PID 1 itself needs is beyond them.
const CAPACITY: usize = 16_384;
/// The most under one name: a container has its three streams, a terminal and its pidfd.
const EACH: usize = 16;
/// The most of a service other than the runtime, which keeps those of all containers.
const SHARE: usize = 256;
const LONGEST_NAME: usize = 256;

/// Cloneable handle to the one store. Each service has names of its own in it, and a share.
#[derive(Debug, Clone, Default)]
pub struct FdStore {
    services: Arc<Mutex<BTreeMap<&'static str, Entries>>>,
}

type Entries = BTreeMap<String, Vec<OwnedFd>>;

/// Why descriptors were not stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    #[error("a name is 1 to {LONGEST_NAME} bytes long")]
    Name,
    #[error("the request carries no descriptor")]
    Empty,
    #[error("at most {EACH} descriptors go under one name")]
    Many,
    #[error("the service's share of {0} descriptors is used up; remove some")]
    Full(usize),
}

/// What a service may keep. All shares together are the store's capacity.
fn share(service: &str) -> usize {
    if service == "runtime" { CAPACITY - crate::services::NAMES.len() * SHARE } else { SHARE }
}

impl FdStore {
    /// Stores descriptors under a name of the service's, in place of what was there.
    ///
    /// # Errors
    /// When the name is unfit, there is nothing to store, or no room; then nothing changes.
    pub fn put(&self, service: &'static str, name: &str, descriptors: Vec<OwnedFd>) -> Result<(), PutError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(PutError::Name);
        }
        if descriptors.is_empty() {
            return Err(PutError::Empty);
        }
        if descriptors.len() > EACH {
            return Err(PutError::Many);
        }
        let mut services = self.lock();
        let entries = services.entry(service).or_default();
        let others: usize = entries.iter().filter(|(n, _)| *n != name).map(|(_, d)| d.len()).sum();
        if others + descriptors.len() > share(service) {
            return Err(PutError::Full(share(service)));
        }
        entries.insert(name.to_owned(), descriptors);
        Ok(())
    }

    /// Duplicates of what the service has stored under a name.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated (PID 1's limit).
    pub fn get(&self, service: &str, name: &str) -> std::io::Result<Option<Vec<OwnedFd>>> {
        let services = self.lock();
        let stored = services.get(service).and_then(|entries| entries.get(name));
        stored.map(|stored| stored.iter().map(OwnedFd::try_clone).collect()).transpose()
    }

    /// Closes what the service has stored under a name; an unknown name is no error.
    pub fn remove(&self, service: &str, name: &str) {
        self.lock().get_mut(service).and_then(|entries| entries.remove(name));
    }

    /// Every name of the service's.
    pub fn names(&self, service: &str) -> Vec<String> {
        self.lock().get(service).map(|entries| entries.keys().cloned().collect()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Entries>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
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
        store.put("runtime", "c1/stdout", vec![write.into()]).unwrap();
        let again = store.get("runtime", "c1/stdout").unwrap().unwrap();
        let mut file = std::fs::File::from(again.into_iter().next().unwrap());
        file.write_all(b"hello").unwrap();
        drop(file);
        store.remove("runtime", "c1/stdout");
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(store.get("runtime", "c1/stdout").unwrap().is_none());
    }

    #[test]
    fn unfit_requests_change_nothing() {
        let store = FdStore::default();
        assert_eq!(store.put("agent", "", vec![]), Err(PutError::Name));
        assert_eq!(store.put("agent", "a", vec![]), Err(PutError::Empty));
        assert!(store.names("agent").is_empty());
    }

    #[test]
    fn a_service_that_stores_without_end_takes_nothing_of_anothers() {
        let store = FdStore::default();
        let some = |count: usize| -> Vec<OwnedFd> {
            (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
        };
        store.put("runtime", "container/1", some(4)).unwrap();
        assert_eq!(store.put("agent", "many", some(EACH + 1)), Err(PutError::Many));
        for n in 0..SHARE / EACH {
            store.put("agent", &format!("{n}"), some(EACH)).unwrap();
        }
        assert_eq!(store.put("agent", "one more", some(1)), Err(PutError::Full(SHARE)));
        store.put("agent", "0", some(EACH)).expect("in the place of what was there");
        store.put("runtime", "container/2", some(4)).unwrap();
        store.remove("agent", "container/1");
        assert!(store.get("agent", "container/2").unwrap().is_none(), "a name is its service's");
        assert_eq!(store.names("runtime"), ["container/1", "container/2"]);
        assert!(crate::services::NAMES.iter().map(|name| share(name)).sum::<usize>() <= CAPACITY);
    }
}
