//! What every service of the node is: one thread with an async runtime, its log on standard error, and no more memory than it needs.
use std::future::Future;
use std::io;

use tracing_subscriber::EnvFilter;

/// Runs a service on this thread, with at most so many blocking calls beside it. `RUST_LOG` says what it logs; by default everything that people want to know.
///
/// # Errors
/// The service's own, and when the async runtime cannot be had.
pub fn run<E: From<io::Error>>(
    blocking_threads: usize,
    service: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    // kube logs each failed request and watch without their object; whoever asked says more.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,kube_client=off,kube_runtime=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads)
        .build()
        .map_err(|error| io::Error::new(error.kind(), format!("start the async runtime: {error}")))?;
    tokio.spawn(crate::memory::keep_small());
    tokio.block_on(service)
}
