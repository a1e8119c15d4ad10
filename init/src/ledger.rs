//! The exit ledger: ends of processes that PID 1 reaped and did not start, kept until somebody acknowledges them.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use machine::socket::Exit;
use tokio::sync::watch;

/// The most exits kept; beyond them the oldest go.
const KEPT: usize = 65_536;

/// Cloneable handle to the one ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    exits: Arc<Mutex<BTreeMap<u64, Exit>>>,
    latest: watch::Sender<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { exits: Arc::default(), latest: watch::channel(0).0 }
    }
}

impl Ledger {
    /// Enters an exit.
    pub fn enter(&self, exit: Exit) {
        let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.latest.borrow() + 1;
        if exits.len() == KEPT {
            exits.pop_first();
            tracing::warn!("exit ledger: nobody acknowledges; the oldest of {KEPT} exits was dropped");
        }
        exits.insert(sequence, exit);
        self.latest.send_replace(sequence);
    }

    /// The unacknowledged exits after a position, at most `most`, each with its position.
    pub fn after(&self, position: u64, most: usize) -> Vec<(u64, Exit)> {
        let exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        exits.range(position + 1..).take(most).map(|(at, exit)| (*at, *exit)).collect()
    }

    /// Forgets an exit; acknowledging what is not there is no error.
    pub fn acknowledge(&self, pid: i32, start_time: u64) {
        let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        exits.retain(|_, exit| (exit.pid, exit.start_time) != (pid, start_time));
    }

    /// Changes with each new exit.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(pid: i32, start_time: u64) -> Exit {
        Exit { pid, start_time, wait_status: 0, unix_nanos: 0 }
    }

    #[test]
    fn an_exit_is_replayed_until_it_is_acknowledged() {
        let ledger = Ledger::default();
        ledger.enter(exit(7, 1));
        ledger.enter(exit(7, 2));
        ledger.acknowledge(7, 1);
        ledger.acknowledge(9, 9);
        let kept = ledger.after(0, 10);
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].0, kept[0].1.start_time), (2, 2));
        assert!(ledger.after(2, 10).is_empty());
    }

    #[test]
    fn the_ledger_is_bounded() {
        let ledger = Ledger::default();
        for pid in 0..KEPT as i32 + 3 {
            ledger.enter(exit(pid, 0));
        }
        let kept = ledger.after(0, usize::MAX);
        assert_eq!((kept.len(), kept[0].1.pid), (KEPT, 3));
    }
}
