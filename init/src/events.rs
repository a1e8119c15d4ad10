//! What happened on this machine: the last events, numbered, for the machine API and for whoever asks why.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use machine::socket::Event;
use tokio::sync::watch;

const KEPT: usize = 1024;

/// Cloneable handle to the one event log.
#[derive(Debug, Clone)]
pub struct Events {
    ring: Arc<Mutex<VecDeque<Event>>>,
    latest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Arc::default(), latest: watch::channel(0).0 }
    }
}

impl Events {
    /// Notes an event and says it on the console.
    pub fn note(&self, source: &str, kind: &str, message: &str) {
        tracing::info!("{source}: {message}");
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *self.latest.borrow() + 1;
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Event {
            sequence,
            unix_ms: unix_ms(),
            source: source.into(),
            kind: kind.into(),
            message: message.into(),
        });
        self.latest.send_replace(sequence);
    }

    /// The events after a sequence number that are still kept.
    pub fn after(&self, sequence: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Changes with each event.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

/// Milliseconds since the epoch.
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_go_and_numbers_stay() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.note("test", "Counted", &n.to_string());
        }
        let kept = events.after(0);
        assert_eq!((kept.len(), kept[0].sequence), (KEPT, 11));
        assert_eq!(events.after(kept[KEPT - 1].sequence - 1).len(), 1);
    }
}
