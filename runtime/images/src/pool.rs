//! Threads of the image store's own for calls that may block. What registries and archives make slow waits
//! here, and not on the threads that containers are started and stopped with.
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);

/// So many threads at most; further calls wait their turn.
#[derive(Debug)]
pub struct Pool(Option<Runtime>);

impl Pool {
    /// # Errors
    /// When the kernel refuses what an async runtime needs.
    pub fn new(name: &str, threads: usize) -> io::Result<Self> {
        // Nothing is polled on it: only its threads for blocking calls are wanted.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(threads)
            .thread_keep_alive(IDLE)
            .thread_name(name)
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a call on one of the threads. When nobody waits any more, it is not begun; one that has begun
    /// runs to its end.
    ///
    /// # Errors
    /// When the call panicked.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let Some(runtime) = &self.0 else { return Err(io::Error::other("the pool of threads is closed")) };
        let mut begun = AbortOnDrop(runtime.spawn_blocking(call));
        (&mut begun.0).await.map_err(io::Error::other)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not awaited: this may be the thread that serves everybody.
            runtime.shutdown_background();
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn calls_wait_for_a_thread_and_those_that_nobody_waits_for_are_not_begun() {
        let pool = Pool::new("test", 1).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let note = |name: &'static str| {
            let tell = tell.clone();
            move || tell.send(name).unwrap()
        };
        let first = pool.run(move || held.recv().is_ok());
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        {
            let given_up = pool.run(note("given up"));
            tokio::pin!(given_up);
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        let last = pool.run(note("last"));
        tokio::pin!(last);
        assert!(futures::poll!(&mut last).is_pending());
        release.send(()).unwrap();
        assert!(first.await.unwrap());
        last.await.unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["last"]);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_caller() {
        let pool = Pool::new("test", 1).unwrap();
        assert!(pool.run(|| panic!("as the test wants")).await.is_err());
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }
}
