//! A watch on the API server, by kubectl; events carry the time at which they arrived.
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::Kubectl;
use serde::Deserialize;
use serde_json::Value;

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: Instant,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: String,
    pub object: Value,
}

impl Event {
    /// The object's name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Line {
    r#type: String,
    object: Value,
}

type Shared = Arc<(Mutex<Vec<Event>>, Condvar)>;

/// A watch that runs until it is dropped. It starts with what is there.
#[derive(Debug)]
pub struct Watch {
    kubectl: Child,
    events: Shared,
}

impl Watch {
    /// Watches objects of a kind in the default namespace.
    ///
    /// # Errors
    /// When kubectl does not start.
    pub fn start(kubectl: &Kubectl, kind: &str) -> Result<Self> {
        let mut command = kubectl.command();
        command.args(["get", kind, "--watch", "--output-watch-events", "-o", "json", "--request-timeout=0"]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn().context("start kubectl")?;
        let output = kubectl.stdout.take().context("kubectl's output")?;
        let events = Shared::default();
        let shared = Arc::clone(&events);
        std::thread::spawn(move || {
            for line in serde_json::Deserializer::from_reader(output).into_iter::<Line>() {
                let Ok(Line { r#type: kind, object }) = line else { return };
                let event = Event { at: Instant::now(), kind, object };
                shared.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                shared.1.notify_all();
            }
        });
        Ok(Self { kubectl, events })
    }

    /// The first event that fits, of those that came and those to come.
    ///
    /// # Errors
    /// When none came in time.
    pub fn wait(&self, deadline: Duration, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        let start = Instant::now();
        let mut looked = 0;
        let mut events = self.events.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(event) = events[looked..].iter().find(|event| fits(event)) {
                return Ok(event.clone());
            }
            looked = events.len();
            let Some(left) = deadline.checked_sub(start.elapsed()) else {
                let last = events
                    .last()
                    .map_or("nothing came".to_owned(), |event| event.object["status"].to_string());
                bail!("not seen within {} s; last: {last}", deadline.as_secs());
            };
            events = self.events.1.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
