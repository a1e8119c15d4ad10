//! Places of a socket, shared out: who takes many keeps nobody else from its own.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Who has how many places.
#[derive(Debug)]
pub struct Places {
    each: usize,
    taken: Mutex<BTreeMap<String, usize>>,
}

/// A place that somebody has until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    who: String,
}

impl Places {
    /// So many for each; who there may be is the caller's to bound.
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    /// One more, unless `who` has its share.
    pub fn take(self: &Arc<Self>, who: &str) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(who).copied().unwrap_or(0);
        if count >= self.each {
            return None;
        }
        taken.insert(who.to_owned(), count + 1);
        Some(Place { places: Arc::clone(self), who: who.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_all_of_its_share_takes_nothing_of_anothers() {
        let places = Places::new(2);
        let held: Vec<_> = (0..2).map(|_| places.take("pods").unwrap()).collect();
        assert!(places.take("pods").is_none());
        let agent = places.take("agent").expect("another's share is its own");
        drop(held);
        assert!(places.take("pods").is_some());
        drop(agent);
        assert!(places.taken.lock().unwrap().is_empty(), "nobody is remembered");
    }
}
