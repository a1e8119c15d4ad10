//! The allocations of all pods: told from memory, kept on disk by a thread of their own, since a sick disk may hold a write for ever.
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use node_kit::files::{self, Durability};
use node_kit::lock;

use super::Allocation;

/// The longest file of a pod's allocation that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// All pods' allocations; clones share them.
#[derive(Debug, Clone)]
pub struct Allocations(Arc<Handle>);

/// What all clones share; the thread ends once it is gone and everything is written.
#[derive(Debug)]
struct Handle {
    known: Mutex<HashMap<String, Allocation>>,
    queue: Arc<Queue>,
}

/// What is to be written, or removed, of each pod: only the newest.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// The thread writes something that is not among them any more.
    busy: bool,
    closed: bool,
}

impl Allocations {
    /// Kept below `folder`; what lies there is read now.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        let queue = Arc::new(Queue::default());
        let known = Mutex::new(read(&folder));
        let (theirs, place) = (Arc::clone(&queue), folder.clone());
        std::thread::Builder::new().name("allocations".into()).spawn(move || keep(&theirs, &place))?;
        Ok(Self(Arc::new(Handle { known, queue })))
    }

    /// The pod's allocation; `None` before its admission.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Allocation> {
        lock(&self.0.known).get(uid).cloned()
    }

    /// Remembers a pod's allocation, in a moment on disk too. A disk that takes nothing costs the memory across a restart, not the pod.
    pub fn update(&self, uid: &str, change: impl FnOnce(Allocation) -> Allocation) {
        let before = self.get(uid);
        let after = change(before.clone().unwrap_or_default());
        if before.as_ref() == Some(&after) {
            return;
        }
        match serde_json::to_vec(&after) {
            Ok(text) => self.0.queue.put(uid, Some(text)),
            Err(error) => tracing::error!("write down the resources of pod {uid}: {error}"),
        }
        lock(&self.0.known).insert(uid.to_owned(), after);
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        if lock(&self.0.known).remove(uid).is_some() {
            self.0.queue.put(uid, None);
        }
    }

    /// Forgets pods that are not among these; called when all pods of the node are known.
    pub fn keep_only(&self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<String> = lock(&self.0.known).keys().filter(|uid| !is_there(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn put(&self, uid: &str, content: Option<Vec<u8>>) {
        lock(&self.state).files.insert(uid.replace('/', "_").into(), content);
        self.changed.notify_all();
    }

    /// The next file to write or remove; waits for one. `None`: there is none any more.
    fn next(&self) -> Option<(PathBuf, Option<Vec<u8>>)> {
        let mut state = lock(&self.state);
        state.busy = false;
        self.changed.notify_all();
        loop {
            if let Some(next) = state.files.pop_first() {
                state.busy = true;
                return Some(next);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn keep(queue: &Queue, folder: &Path) {
    while let Some((name, content)) = queue.next() {
        let path = folder.join(name);
        let done = match content {
            Some(text) => files::make_folder(folder, 0o755)
                .and_then(|()| files::replace(&path, &text, 0o600, Durability::PowerCut)),
            // One that comes back after a power cut is forgotten once all pods are known.
            None => files::remove(&path, Durability::Process),
        };
        if let Err(error) = done {
            tracing::warn!("keep a pod's resources: {error}");
        }
    }
}

fn read(folder: &Path) -> HashMap<String, Allocation> {
    let mut known = HashMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(uid) = entry.file_name().into_string() else { continue };
        // Half-written ones begin with a dot.
        if uid.starts_with('.') {
            continue;
        }
        let read = files::read_bounded(&entry.path(), LONGEST);
        match read.map(|text| serde_json::from_slice(&text.unwrap_or_default())) {
            Ok(Ok(allocation)) => drop(known.insert(uid, allocation)),
            Ok(Err(error)) => tracing::warn!("read {}: {error}; it is left out", entry.path().display()),
            Err(error) => tracing::warn!("{error}; it is left out"),
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Allocations {
        /// Waits until all is on disk.
        fn settled(&self) {
            let mut state = lock(&self.0.queue.state);
            while state.busy || !state.files.is_empty() {
                state = self.0.queue.changed.wait(state).unwrap();
            }
        }
    }

    #[test]
    fn grants_outlive_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allocations");
        let allocations = Allocations::open(&path).unwrap();
        assert_eq!(allocations.get("u"), None);
        let granted = |generation| move |a| Allocation { generation: Some(generation), ..a };
        allocations.update("u", granted(1));
        allocations.update("u", granted(2));
        allocations.update("v", granted(3));
        allocations.settled();
        std::fs::write(path.join("broken"), "{").unwrap();
        let later = Allocations::open(&path).unwrap();
        assert_eq!(later.get("u").unwrap().generation, Some(2));
        assert_eq!(later.get("broken"), None);
        later.keep_only(|uid| uid == "v");
        later.settled();
        let last = Allocations::open(&path).unwrap();
        assert_eq!((last.get("u"), last.get("v").unwrap().generation), (None, Some(3)));
    }
}
