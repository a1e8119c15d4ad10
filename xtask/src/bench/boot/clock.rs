//! A machine's kernel time, from the stamps on its console, and this host's clock beside it.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu_tests::Vm;
use qemu_tests::console::Console;

/// How often the console is looked at: half of it is what times of this host are off on average.
const LOOK: Duration = Duration::from_millis(10);

/// Follows a machine's console from when it is made.
#[derive(Debug)]
pub struct Clock {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the kernel started, by this host's clock; the earliest guess is the best, since lines come late, never early.
    start: Option<Instant>,
    lines: Vec<(f64, String)>,
}

impl Clock {
    /// Follows it until the machine ends.
    pub fn start(vm: &Vm) -> Self {
        Self::follow(vm, vm.console())
    }

    /// Follows it from where `console` is until the machine ends.
    pub fn follow(vm: &Vm, mut console: Console) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, vm) = (Arc::clone(&seen), vm.clone());
        std::thread::spawn(move || {
            while vm.runs() {
                let lines = console.lines().unwrap_or_default();
                shared.lock().unwrap_or_else(PoisonError::into_inner).add(lines, Instant::now());
                std::thread::sleep(LOOK);
            }
        });
        Self { seen }
    }

    /// Kernel time of the first line that contains a text.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(&self, text: &str) -> Result<f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = seen.lines.iter().find(|(_, line)| line.contains(text));
        found.map(|(time, _)| *time).with_context(|| format!("no {text:?} on the console"))
    }

    /// Kernel time of a moment of this host.
    ///
    /// # Errors
    /// Before the first line with a time.
    pub fn kernel(&self, moment: Instant) -> Result<f64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let start = seen.start.context("no line with a time on the console yet")?;
        Ok(moment.saturating_duration_since(start).as_secs_f64())
    }
}

impl Seen {
    fn add(&mut self, lines: Vec<String>, now: Instant) {
        for line in lines {
            let Some(time) = stamp(&line) else { continue };
            let start = now.checked_sub(Duration::from_secs_f64(time));
            self.start = match (self.start, start) {
                (Some(before), Some(start)) => Some(before.min(start)),
                (before, start) => before.or(start),
            };
            self.lines.push((time, line));
        }
    }
}

/// Seconds in `[    4.314478] text`.
fn stamp(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok().filter(|time: &f64| *time >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_stamp_tell_no_time() {
        assert_eq!(stamp("[    4.314478] pintle: INFO Pintle 0.1.0"), Some(4.314478));
        assert_eq!(stamp("SeaBIOS (version 1.16.2)"), None);
        assert_eq!(stamp("[early] x"), None);
    }

    #[test]
    fn the_promptest_line_sets_the_start() {
        let mut seen = Seen::default();
        let now = Instant::now() + Duration::from_secs(100);
        seen.add(vec!["[   10.0] late".into()], now);
        seen.add(vec!["[   20.0] prompt".into()], now + Duration::from_secs(5));
        assert_eq!(seen.start, now.checked_sub(Duration::from_secs(15)));
    }
}
