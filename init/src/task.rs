//! How PID 1 uses the tasks of `node-kit`.
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use node_kit::tasks;

/// Begins the task that `make` makes, and begins it anew with growing pauses when it panics or fails. A task that ends in order stays ended.
pub fn keep_running<F, T>(name: &'static str, make: F)
where
    F: Fn() -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    tokio::spawn(tasks::restarting(name, make));
}

/// So many calls of a kind may hang at a time; further ones fail at once.
const HANGING: usize = 2;

/// Of each kind of call how many are late and not back.
static LATE: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Runs a call that may block on a thread of its own and waits for it until the deadline; a call that does not come back keeps its
/// thread and nothing else. What is tried again and again, as on a disk that is dead, does not take one thread after the other.
///
/// # Errors
/// The call's own, that it is not back in time, or that two of its kind (`what`) hang already.
pub async fn blocking<T, F>(what: &str, deadline: Duration, call: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    let hanging = late().get(what).copied().unwrap_or(0);
    anyhow::ensure!(hanging < HANGING, "{what}: {hanging} earlier calls hang");
    let guard = Guard { kind: what.to_owned(), fate: Arc::default() };
    let fate = Arc::clone(&guard.fate);
    let counted = move || {
        // Dropped when the call is back, even by a panic.
        let _guard = guard;
        call()
    };
    let outcome = tasks::blocking(what, deadline, counted).await;
    if matches!(outcome, Err(tasks::NotDone::Late { .. })) {
        let mut late = late();
        // Unless it has come back at this very moment.
        if !fate.back.load(Ordering::Relaxed) {
            fate.counted.store(true, Ordering::Relaxed);
            *late.entry(what.to_owned()).or_default() += 1;
        }
    }
    outcome?
}

/// What has become of a call; written under the lock of [`LATE`].
#[derive(Debug, Default)]
struct Fate {
    back: AtomicBool,
    /// It is among the late ones.
    counted: AtomicBool,
}

#[derive(Debug)]
struct Guard {
    kind: String,
    fate: Arc<Fate>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut late = late();
        self.fate.back.store(true, Ordering::Relaxed);
        if !self.fate.counted.load(Ordering::Relaxed) {
            return;
        }
        match late.get_mut(&self.kind) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(late.remove(&self.kind)),
        }
    }
}

fn late() -> MutexGuard<'static, BTreeMap<String, usize>> {
    LATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn what_hangs_each_time_takes_two_threads_and_no_more() {
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let call = |hang: Arc<Mutex<mpsc::Receiver<()>>>| {
            blocking("read a dead disk", Duration::from_millis(50), move || {
                let _ = hang.lock().map(|hang| hang.recv());
                Ok(())
            })
        };
        for _ in 0..HANGING {
            let error = call(hang.clone()).await.unwrap_err();
            assert!(error.to_string().contains("not done after"), "{error}");
        }
        let error = call(hang.clone()).await.unwrap_err();
        assert_eq!(error.to_string(), "read a dead disk: 2 earlier calls hang");
        blocking("another", Duration::from_secs(60), || Ok(())).await.unwrap();
        // The disk is back.
        drop(release);
        while late().contains_key("read a dead disk") {
            tokio::task::yield_now().await;
        }
        call(hang).await.unwrap();
    }
}
