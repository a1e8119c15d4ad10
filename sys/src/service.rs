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

/// Closes this process's memory and descriptors to other processes of its user (PR_SET_DUMPABLE of prctl(2)): /proc/PID is root's from here on, and no
/// core is written. For services that are not root and hold secrets.
///
/// # Errors
/// As prctl(2).
pub fn close_memory() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_service_with_secrets_shows_its_memory_to_nobody_of_its_user() {
        // In a child of its own: the rest of the tests go on as they are.
        let program = std::env::current_exe().unwrap();
        if std::env::var_os("PINTLE_CLOSED").is_none() {
            let name = "a_service_with_secrets_shows_its_memory_to_nobody_of_its_user";
            let mut command = std::process::Command::new(program);
            command.args([name, "--nocapture"]).env("PINTLE_CLOSED", "1");
            if nix::unistd::geteuid().is_root() {
                use std::os::unix::process::CommandExt;
                command.uid(65_534).gid(65_534);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        close_memory().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(std::fs::metadata("/proc/self/environ").unwrap().uid(), 0);
        // What a service does with its own memory still works.
        crate::memory::give_back().unwrap();
    }
}
