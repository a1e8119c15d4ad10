//! How PID 1 uses the tasks of `node-kit`.
use std::future::Future;
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
    tasks::blocking(what, deadline, call).await?
}
