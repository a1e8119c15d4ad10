//! Tasks that outlive their own panics.
use std::future::Future;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs the task that `make` makes, and makes it anew with growing pauses when it panics or fails. A task that ends in order stays ended.
pub fn keep_running<F, T>(name: &'static str, make: F)
where
    F: Fn() -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = tokio::time::Instant::now();
            match tokio::spawn(make()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!("{name}: {error:#}; starting it again in {pause:?}"),
                Err(panic) => tracing::error!("{name}: {panic}; starting it again in {pause:?}"),
            }
            if started.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

/// Runs a call that may block on a thread of its own and waits for it until the deadline; a call that does not come back keeps its
/// thread and nothing else.
///
/// # Errors
/// The call's own, or that it is not back in time.
pub async fn blocking<T, F>(what: &str, deadline: Duration, call: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("blocking".into()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        let _ = sender.send(result.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))));
    })?;
    match tokio::time::timeout(deadline, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => anyhow::bail!("{what}: the thread ended without an answer"),
        Err(_) => anyhow::bail!("{what} is not done after {} s", deadline.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_runs_again() {
        let (runs, (done, finished)) = (Arc::new(AtomicU32::new(0)), tokio::sync::watch::channel(false));
        keep_running("test", move || {
            let (runs, done) = (runs.clone(), done.clone());
            async move {
                assert!(runs.fetch_add(1, Ordering::SeqCst) >= 2, "not yet");
                done.send_replace(true);
                Ok(())
            }
        });
        let mut finished = finished;
        finished.wait_for(|f| *f).await.unwrap();
    }
}
