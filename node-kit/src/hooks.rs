//! What tests ask of a service that runs: that one of its tasks panics, that its main loop hangs.
//!
//! Only where PID 1 says so in the environment, which it does where `pintle.test-hooks` stands on the kernel command line. A test writes a line into
//! `/run/pintle/test-hooks/SERVICE`, where the service finds it within a second: `panic TASK`, or `block SECONDS`.
use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;

use crate::files;

/// Set to 1 by PID 1.
pub const VARIABLE: &str = "PINTLE_TEST_HOOKS";
/// A file for each service, by its name.
pub const FOLDER: &str = "/run/pintle/test-hooks";

const LOOK: Duration = Duration::from_secs(1);
const LONGEST_LINE: usize = 4096;

/// The task that is to panic.
type Victim = watch::Sender<Option<String>>;

fn victim() -> Option<&'static Victim> {
    static VICTIM: OnceLock<Option<Victim>> = OnceLock::new();
    let make = || std::env::var_os(VARIABLE).is_some_and(|set| set == "1").then(|| watch::channel(None).0);
    VICTIM.get_or_init(make).as_ref()
}

/// The task itself, but for the panic that a test may ask for by its name.
pub(crate) async fn watched<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let Some(victim) = victim() else { return task.await };
    let mut victim = victim.subscribe();
    // A task that is begun again after its panic is not meant any more.
    victim.mark_unchanged();
    let asked = async move {
        loop {
            if victim.changed().await.is_err() {
                return std::future::pending().await;
            }
            if victim.borrow_and_update().as_deref() == Some(name) {
                return;
            }
        }
    };
    tokio::select! {
        output = task => output,
        () = asked => panic!("a test asked for it"),
    }
}

/// Does what tests ask of the service of this name, for ever. Run it on the service's main loop.
pub(crate) async fn obey(service: &str) {
    let Some(victim) = victim() else { return std::future::pending().await };
    let path = Path::new(FOLDER).join(service);
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(Some(line)) = files::read_bounded(&path, LONGEST_LINE) else { continue };
        // What stays there would be done again by each process to come.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!("remove {}: {error}; not done", path.display());
            continue;
        }
        match asked(&String::from_utf8_lossy(&line)) {
            Some(Asked::Panic(task)) => drop(victim.send_replace(Some(task))),
            Some(Asked::Block(time)) => std::thread::sleep(time),
            None => tracing::warn!("a test asks for something unknown"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Panic(String),
    Block(Duration),
}

fn asked(line: &str) -> Option<Asked> {
    let (verb, rest) = line.trim().split_once(' ')?;
    match verb {
        "panic" => Some(Asked::Panic(rest.to_owned())),
        "block" => rest.parse().ok().map(|seconds| Asked::Block(Duration::from_secs(seconds))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_ask_for_panics_and_hangs() {
        assert_eq!(asked("panic image collection\n"), Some(Asked::Panic("image collection".into())));
        assert_eq!(asked("block 20"), Some(Asked::Block(Duration::from_secs(20))));
        assert_eq!(asked("block long"), None);
        assert_eq!(asked("sleep 1"), None);
    }

    #[tokio::test]
    async fn without_the_word_of_pid_1_there_are_no_hooks() {
        assert!(victim().is_none());
        assert_eq!(watched("any", async { 1 }).await, 1);
    }
}
