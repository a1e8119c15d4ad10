//! The image store as containers use it: its calls block on the disk, so each runs on a thread for that.
use crate::{Image, Measured, Snapshot, Store, StoreError};

/// The store, asynchronously.
#[derive(Debug, Clone)]
pub struct Images(pub Store);

impl Images {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.0.clone();
        match tokio::task::spawn_blocking(move || work(store)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// The image of a name, digest or id. It is answered from memory.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, StoreError> {
        self.0.resolve(name)
    }

    /// Makes a writable layer named `id` over an image.
    ///
    /// # Errors
    /// When the image has gone or the disk refuses.
    pub async fn prepare(&self, id: &str, image: &Image) -> Result<Snapshot, StoreError> {
        let (id, image) = (id.to_owned(), image.clone());
        self.blocking(move |store| store.prepare_snapshot(&id, &image)).await
    }

    /// Removes a writable layer; none of that name is no error.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn remove(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.blocking(move |store| store.remove_snapshot(&id)).await
    }

    /// What a writable layer takes, as it was measured last. It is answered from memory.
    pub fn usage(&self, id: &str) -> Option<Measured> {
        self.0.usage(id)
    }
}
