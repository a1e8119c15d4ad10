//! Locks.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose data is whole after every statement, so that a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
