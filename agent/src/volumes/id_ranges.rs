//! The ids of pods with a user namespace of their own (KEP-127): each has a range of the host's ids that no other pod of this node has, kept
//! in its directory, so that it is the same as long as the pod is on the node.
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use node_kit::files::{Durability, replace};

use super::Volumes;

/// Ids of a pod: all that 16 bits can name, as the kubelet gives.
pub const IDS: u32 = 65536;
/// Ranges of a node. The first one is the host's own, and as many pods as a node may ever have find a place.
const RANGES: u32 = 16384;
const FILE: &str = "userns";

/// Two pods must not look for a free range at the same time.
static CHOICE: Mutex<()> = Mutex::new(());

impl Volumes {
    /// The first id on the host of a pod's [`IDS`] ids. The pod's directory must be there.
    ///
    /// # Errors
    /// When the directory cannot be read or written, or all ranges are taken.
    pub async fn owner(&self, uid: &str) -> Result<u32, String> {
        let (volumes, pod) = (self.clone(), uid.to_owned());
        let choose = move || volumes.choose(&pod).map_err(|error| error.to_string());
        self.off_thread(uid, format!("keep the user ids of pod {uid}"), choose).await
    }

    fn choose(&self, uid: &str) -> io::Result<u32> {
        let _choice = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = self.range(uid)? {
            return Ok(range * IDS);
        }
        let mut taken = BTreeSet::new();
        for pod in self.pods_on_disk() {
            taken.extend(self.range(&pod)?);
        }
        let range = free(&taken).ok_or_else(|| io::Error::other("every range of user ids has a pod"))?;
        let folder = self.pod_dir(uid);
        // After a power cut its files must not belong to another range.
        replace(&folder.join(FILE), range.to_string().as_bytes(), 0o600, Durability::PowerCut)?;
        Ok(range * IDS)
    }

    /// The range that a pod has.
    fn range(&self, uid: &str) -> io::Result<Option<u32>> {
        let path = self.pod_dir(uid).join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => match text.parse() {
                // Another number could wrap around to the host's own ids.
                Ok(range @ 1..RANGES) => Ok(Some(range)),
                _ => Err(io::Error::other(format!(
                    "{} says {text:?}, which is no number of a range of ids",
                    path.display()
                ))),
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn free(taken: &BTreeSet<u32>) -> Option<u32> {
    (1..RANGES).find(|range| !taken.contains(range))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::volumes::tests::Fake;

    #[test]
    fn every_pod_has_ids_of_its_own_for_as_long_as_it_lives() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(root.path(), Arc::new(Fake::default()));
        for uid in ["a", "b", "c"] {
            fs::create_dir_all(volumes.pod_dir(uid)).unwrap();
        }
        assert_eq!(volumes.choose("a").unwrap(), IDS);
        assert_eq!(volumes.choose("b").unwrap(), 2 * IDS);
        assert_eq!(volumes.choose("a").unwrap(), IDS);
        fs::remove_dir_all(volumes.pod_dir("a")).unwrap();
        assert_eq!(volumes.choose("c").unwrap(), IDS);
        assert!(volumes.choose("gone").is_err());
    }

    #[test]
    fn a_range_that_cannot_be_read_is_not_given_twice() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(root.path(), Arc::new(Fake::default()));
        for uid in ["a", "b"] {
            fs::create_dir_all(volumes.pod_dir(uid)).unwrap();
        }
        for text in ["x", "0", "65536"] {
            fs::write(volumes.pod_dir("a").join(FILE), text).unwrap();
            assert!(volumes.choose("b").unwrap_err().to_string().contains("no number"));
        }
    }

    #[test]
    fn ranges_end() {
        assert_eq!(free(&(1..RANGES).collect()), None);
        assert_eq!(free(&[1, 3].into()), Some(2));
    }
}
