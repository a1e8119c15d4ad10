//! Progress on a terminal or as plain lines, with elapsed times and, while waiting, what is waited for.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How often plain output repeats what it waits for.
const REPEAT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(500);
const LONGEST_POLL: Duration = Duration::from_secs(3);

/// How long to leave it alone after a look that took so long: a look may cost the very processors that the machines run on.
#[must_use]
pub fn pause_after(look: Duration, poll: Duration) -> Duration {
    poll.max((look * 4).min(LONGEST_POLL))
}

/// One look at something that takes time.
#[derive(Debug)]
pub enum Look<T> {
    Done(T),
    /// What holds it up.
    Waiting(String),
}

/// Phases of one command.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    terminal: bool,
}

impl Progress {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now(), terminal: std::io::stdout().is_terminal() }
    }

    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f32 {
        self.start.elapsed().as_secs_f32()
    }

    /// Runs a phase that cannot be looked into.
    ///
    /// # Errors
    /// Its own.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let phase = self.begin(name);
        let result = work();
        phase.end(result.is_ok());
        result
    }

    /// Looks until it is done.
    ///
    /// # Errors
    /// At the deadline, with what it still waited for; or the look's own.
    pub fn wait<T>(
        &self,
        name: &str,
        deadline: Duration,
        mut look: impl FnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let phase = self.begin(name);
        let start = Instant::now();
        let mut said = Instant::now();
        loop {
            let began = Instant::now();
            match look() {
                Ok(Look::Done(value)) => {
                    phase.end(true);
                    return Ok(value);
                }
                Ok(Look::Waiting(reason)) => {
                    phase.waits_for(&reason, said.elapsed() > REPEAT);
                    if said.elapsed() > REPEAT {
                        said = Instant::now();
                    }
                    if start.elapsed() > deadline {
                        phase.end(false);
                        bail!("{name}: not done within {} s; {reason}", deadline.as_secs());
                    }
                }
                Err(fault) => {
                    phase.end(false);
                    return Err(fault);
                }
            }
            std::thread::sleep(pause_after(began.elapsed(), POLL));
        }
    }

    fn begin(&self, name: &str) -> Phase {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            println!("[{:7.1} s] {name}", self.seconds());
        }
        Phase { bar, name: name.to_owned(), start: Instant::now(), origin: self.start }
    }
}

struct Phase {
    bar: Option<ProgressBar>,
    name: String,
    start: Instant,
    origin: Instant,
}

impl Phase {
    fn waits_for(&self, reason: &str, repeat: bool) {
        match &self.bar {
            Some(bar) => bar.set_message(reason.to_owned()),
            None if repeat => println!("[{:7.1} s]   {reason}", self.origin.elapsed().as_secs_f32()),
            None => {}
        }
    }

    fn end(&self, good: bool) {
        let (total, own) = (self.origin.elapsed().as_secs_f32(), self.start.elapsed().as_secs_f32());
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            println!("[{total:7.1} s] {} {} ({own:.1} s)", if good { "✓" } else { "✗" }, self.name);
        } else if own >= 1.0 {
            println!("[{total:7.1} s]   {} after {own:.1} s", if good { "done" } else { "failed" });
        }
    }
}
