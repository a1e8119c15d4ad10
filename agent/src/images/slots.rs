//! How many images are pulled at once.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pulls at once when they are not serialized. What each takes of the node is bounded by the runtime.
const PARALLEL: usize = 32;
/// Of one registry: one that is slow keeps nobody from pulling from another.
const PARALLEL_OF_REGISTRY: usize = 5;

/// Places for pulls; clones share them.
#[derive(Debug, Clone)]
pub struct Slots {
    all: Arc<Semaphore>,
    of_registries: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// One pull's place, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    _of_registry: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
    /// Keeps the registry's places known while one is taken or waited for.
    _registry: Arc<Semaphore>,
}

impl Slots {
    /// One place where pulls are serialized.
    pub fn new(serialize: bool) -> Self {
        let all = Arc::new(Semaphore::new(if serialize { 1 } else { PARALLEL }));
        Self { all, of_registries: Arc::default() }
    }

    /// Waits for a place. Those who wait for one of their registry take none of all.
    pub async fn take(&self, registry: &str) -> Slot {
        let places = self.places_of(registry);
        // Neither is ever closed.
        let of_registry = places.clone().acquire_owned().await.ok();
        let of_all = self.all.clone().acquire_owned().await.ok();
        Slot { _of_registry: of_registry, _of_all: of_all, _registry: places }
    }

    fn places_of(&self, registry: &str) -> Arc<Semaphore> {
        let mut known = self.of_registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known.get(registry).and_then(Weak::upgrade) {
            return places;
        }
        known.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(PARALLEL_OF_REGISTRY));
        known.insert(registry.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_registry_keeps_nobody_from_another() {
        let slots = Slots::new(false);
        let mut slow = Vec::new();
        for _ in 0..PARALLEL_OF_REGISTRY {
            slow.push(slots.take("slow.test").await);
        }
        let waits = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take("slow.test").await }
        });
        tokio::task::yield_now().await;
        drop(slots.take("quick.test").await);
        assert!(!waits.is_finished(), "its registry has all its places");
        slow.pop();
        drop(waits.await.unwrap());
        drop(slow);
        drop(slots.take("quick.test").await);
        assert_eq!(
            slots.of_registries.lock().unwrap().len(),
            1,
            "registries that nobody pulls from are forgotten"
        );
    }
}
