//! The exit ledger: ends of processes that PID 1 reaped and did not start, kept until somebody acknowledges them.
//!
//! Whoever has a process in its host's pid namespace makes entries here: each orphan of a pod with hostPID ends as PID 1's child. So each cgroup has a
//! share, and what goes when it is used up is the exit of whichever process of that cgroup started last. A container's first process started before
//! all others of its cgroup, so its exit stays, whatever its pod leaves behind and however long nobody acknowledges.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use machine::socket::Exit;
use tokio::sync::watch;

/// The most exits kept.
const KEPT: usize = 65_536;
/// The most exits kept of one cgroup: execs that ended while the runtime is away.
const SHARE: usize = 1_024;

/// Cloneable handle to the one ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    latest: watch::Sender<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { book: Arc::default(), latest: watch::channel(0).0 }
    }
}

/// The entries by position, and the ways to find them.
#[derive(Debug, Default)]
struct Book {
    exits: BTreeMap<u64, (Exit, String)>,
    positions: HashMap<(i32, u64), Vec<u64>>,
    /// Of each cgroup its entries by the start of the process.
    shares: HashMap<String, BTreeSet<(u64, u64)>>,
    /// Cgroups that went over their share since they last had room, so that each is said once.
    said: BTreeSet<String>,
}

impl Book {
    fn insert(&mut self, position: u64, exit: Exit, cgroup: &str) {
        self.positions.entry((exit.pid, exit.start_time)).or_default().push(position);
        self.shares.entry(cgroup.to_owned()).or_default().insert((exit.start_time, position));
        self.exits.insert(position, (exit, cgroup.to_owned()));
        if self.shares.get(cgroup).is_some_and(|share| share.len() > SHARE) {
            self.drop_last_started(cgroup);
        } else if self.exits.len() > KEPT {
            let largest = self.shares.iter().max_by_key(|(_, share)| share.len());
            if let Some(largest) = largest.map(|(cgroup, _)| cgroup.clone()) {
                self.drop_last_started(&largest);
            }
        }
    }

    fn drop_last_started(&mut self, cgroup: &str) {
        let last = self.shares.get(cgroup).and_then(BTreeSet::last).map(|(_, position)| *position);
        if let Some(position) = last {
            self.remove(position);
        }
        if self.said.insert(cgroup.to_owned()) {
            tracing::warn!("exit ledger: nobody acknowledges; exits of processes of {cgroup} are dropped");
        }
    }

    fn remove(&mut self, position: u64) {
        let Some((exit, cgroup)) = self.exits.remove(&position) else { return };
        let key = (exit.pid, exit.start_time);
        if let Some(positions) = self.positions.get_mut(&key) {
            positions.retain(|at| *at != position);
            if positions.is_empty() {
                self.positions.remove(&key);
            }
        }
        if let Some(share) = self.shares.get_mut(&cgroup) {
            share.remove(&(exit.start_time, position));
            if share.is_empty() {
                self.shares.remove(&cgroup);
                self.said.remove(&cgroup);
            }
        }
    }
}

impl Ledger {
    /// Enters an exit of a process that was in `cgroup`.
    pub fn enter(&self, exit: Exit, cgroup: &str) {
        let mut book = self.lock();
        let position = *self.latest.borrow() + 1;
        book.insert(position, exit, cgroup);
        self.latest.send_replace(position);
    }

    /// The unacknowledged exits after a position, at most `most`, each with its position.
    pub fn after(&self, position: u64, most: usize) -> Vec<(u64, Exit)> {
        let book = self.lock();
        book.exits.range(position + 1..).take(most).map(|(at, (exit, _))| (*at, *exit)).collect()
    }

    /// Forgets an exit; acknowledging what is not there is no error.
    pub fn acknowledge(&self, pid: i32, start_time: u64) {
        let mut book = self.lock();
        for position in book.positions.get(&(pid, start_time)).cloned().unwrap_or_default() {
            book.remove(position);
        }
    }

    /// Changes with each new exit.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(pid: i32, start_time: u64) -> Exit {
        Exit { pid, start_time, wait_status: 0, unix_nanos: 0 }
    }

    fn pids(ledger: &Ledger) -> BTreeSet<i32> {
        ledger.after(0, usize::MAX).iter().map(|(_, exit)| exit.pid).collect()
    }

    #[test]
    fn an_exit_is_replayed_until_it_is_acknowledged() {
        let ledger = Ledger::default();
        ledger.enter(exit(7, 1), "a");
        ledger.enter(exit(7, 2), "a");
        ledger.acknowledge(7, 1);
        ledger.acknowledge(9, 9);
        let kept = ledger.after(0, 10);
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].0, kept[0].1.start_time), (2, 2));
        assert!(ledger.after(2, 10).is_empty());
        ledger.acknowledge(7, 2);
        let book = ledger.lock();
        assert!(book.positions.is_empty() && book.shares.is_empty(), "nobody is remembered");
    }

    #[test]
    fn a_pods_orphans_push_out_neither_anothers_exit_nor_its_containers_own() {
        let ledger = Ledger::default();
        ledger.enter(exit(5, 50), "kubepods/podb/c");
        // Orphans end before and after the container's first process, which started before them.
        for pid in 1_000..6_000 {
            ledger.enter(exit(pid, 200 + pid as u64), "kubepods/poda/c");
        }
        ledger.enter(exit(6, 60), "kubepods/poda/c");
        for pid in 6_000..11_000 {
            ledger.enter(exit(pid, 200 + pid as u64), "kubepods/poda/c");
        }
        let kept = pids(&ledger);
        assert!(kept.contains(&5) && kept.contains(&6));
        assert_eq!(kept.len(), SHARE + 1);
    }

    #[test]
    fn the_ledger_is_bounded_whatever_the_number_of_cgroups() {
        let ledger = Ledger::default();
        ledger.enter(exit(1, 1), "quiet");
        for group in 0..(KEPT / SHARE) as i32 + 2 {
            for n in 0..SHARE as i32 {
                ledger.enter(exit(10 + group * SHARE as i32 + n, n as u64 + 2), &format!("loud{group}"));
            }
        }
        let kept = pids(&ledger);
        assert_eq!(kept.len(), KEPT);
        assert!(kept.contains(&1), "the largest give way");
    }
}
