//! How processes of containers ended. PID 1 reaps them and tells each exit until it is acknowledged; on a host whose PID 1 is another, this process is
//! the subreaper and collects them itself.
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use node_kit::machine_socket::{Client as MachineSocket, ExitStream};
use node_kit::tasks::{essential, sound};

/// A process, named for good.
pub type Key = (i32, u64);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// Nanoseconds since the epoch.
    pub at: i64,
}

impl Exit {
    /// From a wait status.
    pub fn from_status(status: i32, at: i64) -> Self {
        let signal = status & 0x7f;
        Self { code: if signal == 0 { (status >> 8) & 0xff } else { 128 + signal }, at }
    }

    /// For a process that nobody knows the end of.
    pub fn unknown() -> Self {
        Self { code: 255, at: crate::state::now() }
    }
}

/// Exits that nobody has claimed yet; a launch may be about to learn its pid. PID 1 keeps no more either.
const MAX_UNCLAIMED: usize = 65_536;
/// How long a process that has ended may be missing from the ledger.
const LEDGER_PATIENCE: Duration = Duration::from_secs(5);

/// Hands each exit to whom it concerns.
#[derive(Debug, Clone)]
pub struct Exits {
    machine: Option<Arc<MachineSocket>>,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<Key, Vec<oneshot::Sender<Exit>>>,
    /// Each with the number of the launch that had begun last by then.
    unclaimed: HashMap<Key, (u64, Exit)>,
    /// Handed to whoever waited for them, and not yet on record: PID 1 must keep them, however often it tells them.
    claimed: HashSet<Key>,
    /// Numbers of the launches that go on.
    launches: BTreeSet<u64>,
    last_launch: u64,
}

impl Table {
    /// Exits that no launch can be about to claim: it would have begun before its process ended.
    fn forgotten(&mut self) -> Vec<Key> {
        let oldest = self.launches.first().copied();
        let kept = |at: u64| oldest.is_some_and(|oldest| oldest <= at);
        let forgotten: Vec<Key> =
            self.unclaimed.iter().filter(|(_, (at, _))| !kept(*at)).map(|(key, _)| *key).collect();
        self.unclaimed.retain(|_, (at, _)| kept(*at));
        forgotten
    }
}

/// While it lives, exits that nobody waits for are kept for the launch.
#[derive(Debug)]
pub struct LaunchGuard {
    exits: Exits,
    number: u64,
}

impl Drop for LaunchGuard {
    fn drop(&mut self) {
        let forgotten = {
            let mut table = self.exits.lock();
            table.launches.remove(&self.number);
            table.forgotten()
        };
        for key in forgotten {
            self.exits.acknowledge(key);
        }
    }
}

impl Exits {
    /// Listens to PID 1's ledger, or becomes the subreaper. Call it once the records are loaded and [`Exits::wait`] was called for each living
    /// process's record.
    pub fn new(machine: Option<Arc<MachineSocket>>) -> Self {
        Self { machine, table: Arc::default() }
    }

    /// Starts listening.
    pub fn start(&self) {
        if self.machine.is_some() {
            essential("exit ledger", listen(self.clone()));
        } else if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            tracing::error!(%error, "become the subreaper of containers; exit codes will be missing");
        }
    }

    /// Announces that a process is about to be launched.
    pub fn launching(&self) -> LaunchGuard {
        let number = {
            let mut table = self.lock();
            table.last_launch += 1;
            let number = table.last_launch;
            table.launches.insert(number);
            number
        };
        LaunchGuard { exits: self.clone(), number }
    }

    /// Waits for a process's end. Where the ledger stays silent about a process that is gone, [`Exit::unknown`].
    /// It counts from the call, not from the first poll.
    pub fn wait(
        &self,
        key: Key,
        pidfd: Option<Arc<AsyncFd<OwnedFd>>>,
    ) -> impl Future<Output = Exit> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut table = self.lock();
            match table.unclaimed.remove(&key) {
                Some((_, exit)) => {
                    table.claimed.insert(key);
                    let _ = sender.send(exit);
                }
                None => table.waiting.entry(key).or_default().push(sender),
            }
        }
        self.clone().watch(key, pidfd, receiver)
    }

    async fn watch(
        self,
        key: Key,
        pidfd: Option<Arc<AsyncFd<OwnedFd>>>,
        receiver: oneshot::Receiver<Exit>,
    ) -> Exit {
        let gone = async {
            match pidfd {
                Some(pidfd) => drop(pidfd.readable().await),
                None if sys::pidfd::start_time(key.0).ok() == Some(key.1) => std::future::pending().await,
                None => {}
            }
        };
        tokio::select! {
            biased;
            exit = receiver => exit.unwrap_or_else(|_| Exit::unknown()),
            exit = async {
                gone.await;
                if self.machine.is_some() {
                    tokio::time::sleep(LEDGER_PATIENCE).await;
                    tracing::error!(pid = key.0, "PID 1 does not know how the process ended");
                    return Exit::unknown();
                }
                self.reap(key).await
            } => exit,
        }
    }

    /// Tells PID 1 that the exit is on record.
    pub fn acknowledge(&self, key: Key) {
        self.lock().claimed.remove(&key);
        let Some(machine) = self.machine.clone() else { return };
        sound("acknowledgement of an exit", async move {
            if let Err(error) = machine.acknowledge(key.0, key.1).await {
                tracing::warn!(pid = key.0, %error, "acknowledge an exit");
            }
        });
    }

    /// Without PID 1's ledger: the process is our child by now, or will be when its launcher has ended.
    async fn reap(&self, key: Key) -> Exit {
        for _ in 0..200 {
            match sys::pidfd::reap(key.0) {
                Ok(Some(status)) => return Exit::from_status(status, crate::state::now()),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        Exit::unknown()
    }

    fn deliver(&self, key: Key, exit: Exit) {
        let forgotten = {
            let mut table = self.lock();
            let mut heard = false;
            for sender in table.waiting.remove(&key).unwrap_or_default() {
                heard |= sender.send(exit).is_ok();
            }
            if heard {
                table.claimed.insert(key);
            }
            // One that is told again while it is being recorded.
            if table.claimed.contains(&key) {
                false
            } else if !table.launches.is_empty() && table.unclaimed.len() < MAX_UNCLAIMED {
                let at = table.last_launch;
                table.unclaimed.insert(key, (at, exit));
                false
            } else {
                true
            }
        };
        // Intermediate processes of libcontainer, what containers left behind, and execs of a former life.
        if forgotten {
            self.acknowledge(key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn listen(exits: Exits) {
    loop {
        match ExitStream::open().await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(exit) => exits.deliver(
                        (exit.pid, exit.start_time),
                        Exit::from_status(exit.wait_status, exit.unix_nanos),
                    ),
                    Err(error) => {
                        tracing::warn!(%error, "PID 1's exit ledger went away; asking again");
                        break;
                    }
                }
            },
            Err(error) => tracing::warn!(%error, "open PID 1's exit ledger"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_a_shells_codes() {
        assert_eq!(Exit::from_status(3 << 8, 1).code, 3);
        assert_eq!(Exit::from_status(9, 1).code, 137);
        assert_eq!(Exit::from_status(11 | 0x80, 1).code, 139);
    }

    #[tokio::test]
    async fn an_exit_that_comes_before_its_pid_is_known_is_kept_for_the_launch() {
        let exits = Exits::new(None);
        let launch = exits.launching();
        exits.deliver((7, 70), Exit { code: 3, at: 1 });
        assert_eq!(exits.wait((7, 70), None).await.code, 3);
        drop(launch);
        assert!(exits.lock().unclaimed.is_empty());
    }

    #[tokio::test]
    async fn an_exit_is_kept_only_for_launches_that_began_before_it() {
        let exits = Exits::new(None);
        let (exit, first) = (Exit { code: 3, at: 1 }, exits.launching());
        exits.deliver((7, 70), exit);
        let second = exits.launching();
        exits.deliver((8, 80), exit);
        drop(first);
        assert_eq!(exits.lock().unclaimed.keys().collect::<Vec<_>>(), [&(8, 80)]);
        drop(second);
        assert!(exits.lock().unclaimed.is_empty());
    }

    #[tokio::test]
    async fn an_exit_that_is_told_again_before_it_is_on_record_is_not_forgotten() {
        let exits = Exits::new(None);
        let (key, exit) = ((7, 70), Exit { code: 3, at: 1 });
        let waiting = exits.wait(key, None);
        exits.deliver(key, exit);
        // PID 1's ledger was asked anew.
        exits.deliver(key, exit);
        assert!(exits.lock().claimed.contains(&key));
        assert_eq!(waiting.await.code, 3);
        exits.acknowledge(key);
        assert!(exits.lock().claimed.is_empty());
    }

    #[tokio::test]
    async fn whoever_has_stopped_waiting_claims_nothing() {
        let exits = Exits::new(None);
        drop(exits.wait((7, 70), None));
        exits.deliver((7, 70), Exit { code: 3, at: 1 });
        assert!(exits.lock().claimed.is_empty() && exits.lock().waiting.is_empty());
    }
}
