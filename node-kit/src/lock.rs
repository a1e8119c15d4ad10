//! Locks.
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data is whole after every statement, so that a panic elsewhere does not matter.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
