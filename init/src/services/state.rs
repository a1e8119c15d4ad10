//! One service's life as a pure function: `(state, event, now) -> (state, effects)`.
use std::time::{Duration, Instant};

use super::definition::Definition;

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A run of this length makes the next failure count as the first.
const HEALTHY_RUN: Duration = Duration::from_secs(60);
const HANGS: &str = "it gave no sign of life and was ended";

/// Where a service is in its life. `Stopping` records what is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Something that it needs is missing.
    Waiting,
    /// A process runs and has not said that it is ready.
    Running {
        pid: i32,
        late: bool,
    },
    Ready {
        pid: i32,
    },
    BackOff,
    Stopping {
        pid: i32,
        killed: bool,
        then: Then,
    },
    /// Somebody asked for it.
    Stopped,
    /// It cannot be started from this image.
    Failed,
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Restart,
    Stay,
}

/// What happens to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed, or what it waits for changed: `None` when nothing is missing.
    Tick(Option<&'static str>),
    Spawned(i32),
    SpawnFailed {
        missing: bool,
        reason: String,
    },
    SaidReady,
    /// It gives no sign of life any more.
    Hangs,
    Ended(String),
    Start,
    Stop,
    Restart,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Spawn,
    Terminate(i32),
    /// It does not do what it is asked.
    Kill(i32),
    KillCgroup,
}

/// A service's life so far.
#[derive(Debug, Clone)]
pub struct Life {
    pub state: State,
    pub reason: String,
    pub restarts: u32,
    /// How often it gave no sign of life.
    pub hangs: u32,
    failures: u32,
    /// Its process is ended because it hangs.
    hung: bool,
    /// When the state was entered.
    since: Instant,
    deadline: Option<Instant>,
}

impl Life {
    /// A service that waits.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting,
            reason: String::new(),
            restarts: 0,
            hangs: 0,
            failures: 0,
            hung: false,
            since: now,
            deadline: None,
        }
    }

    /// When the next `Tick` is due even if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The process, when there is one.
    pub fn pid(&self) -> i32 {
        match self.state {
            State::Running { pid, .. } | State::Ready { pid } | State::Stopping { pid, .. } => pid,
            _ => 0,
        }
    }

    /// The state's name as the machine socket gives it.
    pub fn name(&self) -> &'static str {
        match self.state {
            State::Waiting => "Waiting",
            State::Running { .. } => "Running",
            State::Ready { .. } => "Ready",
            State::BackOff => "BackOff",
            State::Stopping { .. } => "Stopping",
            State::Stopped => "Stopped",
            State::Failed => "Failed",
        }
    }

    /// Takes one event and says what to do.
    pub fn step(&mut self, definition: &Definition, event: Event, now: Instant) -> Option<Effect> {
        let due = self.deadline.is_some_and(|deadline| now >= deadline);
        match (self.state, event) {
            (State::Waiting, Event::Tick(None)) => return self.starting(),
            (State::Waiting, Event::Tick(Some(missing))) => self.reason = format!("waits for {missing}"),
            (State::BackOff, Event::Tick(missing)) if due => {
                self.enter(State::Waiting, String::new(), None, now);
                if missing.is_none() {
                    self.restarts += 1;
                    return self.starting();
                }
            }
            (State::Waiting, Event::Spawned(pid)) => {
                let deadline = now + definition.ready_deadline;
                self.enter(State::Running { pid, late: false }, String::new(), Some(deadline), now);
                self.hung = false;
            }
            (State::Waiting, Event::SpawnFailed { missing: true, reason }) => {
                self.enter(State::Failed, reason, None, now);
            }
            (State::Waiting, Event::SpawnFailed { reason, .. }) => self.back_off(reason, now),
            (State::Running { pid, late: false }, Event::Tick(_)) if due => {
                let reason = format!("not ready after {} s", definition.ready_deadline.as_secs());
                self.enter(State::Running { pid, late: true }, reason, None, now);
            }
            (State::Running { pid, .. }, Event::SaidReady) => {
                self.enter(State::Ready { pid }, String::new(), None, now);
            }
            (State::Running { pid, .. } | State::Ready { pid }, Event::Hangs) => {
                self.hangs += 1;
                self.hung = true;
                // Not ready any more, for as long as even SIGKILL takes; how long it ran still counts.
                self.state = State::Running { pid, late: true };
                (self.reason, self.deadline) = (HANGS.into(), None);
                return Some(Effect::Kill(pid));
            }
            (State::Running { .. } | State::Ready { .. }, Event::Ended(how)) => {
                if now.duration_since(self.since) >= HEALTHY_RUN {
                    self.failures = 0;
                }
                let how = if std::mem::take(&mut self.hung) { HANGS.into() } else { format!("ended: {how}") };
                self.back_off(how, now);
            }
            (State::Running { pid, .. } | State::Ready { pid }, Event::Stop) => {
                return self.stopping(definition, pid, Then::Stay, now);
            }
            (State::Running { pid, .. } | State::Ready { pid }, Event::Restart) => {
                return self.stopping(definition, pid, Then::Restart, now);
            }
            (State::Stopping { pid, killed, .. }, Event::Stop) => {
                self.state = State::Stopping { pid, killed, then: Then::Stay };
            }
            (State::Stopping { pid, killed, .. }, Event::Start | Event::Restart) => {
                self.state = State::Stopping { pid, killed, then: Then::Restart };
            }
            (State::Stopping { pid, killed: false, then }, Event::Tick(_)) if due => {
                self.state = State::Stopping { pid, killed: true, then };
                self.deadline = None;
                return Some(Effect::KillCgroup);
            }
            (State::Stopping { then: Then::Stay, .. }, Event::Ended(_)) => {
                self.enter(State::Stopped, "stopped on request".into(), None, now);
                // What it left behind in its cgroup goes too.
                return Some(Effect::KillCgroup);
            }
            (State::Stopping { then: Then::Restart, .. }, Event::Ended(_)) => {
                self.restarts += 1;
                self.enter(State::Waiting, String::new(), Some(now), now);
            }
            (State::Waiting | State::BackOff, Event::Stop) => {
                self.enter(State::Stopped, "stopped on request".into(), None, now);
            }
            (State::Stopped | State::Failed | State::BackOff, Event::Start | Event::Restart) => {
                self.failures = 0;
                self.enter(State::Waiting, String::new(), Some(now), now);
            }
            _ => {}
        }
        None
    }

    fn starting(&mut self) -> Option<Effect> {
        self.reason = String::new();
        self.deadline = None;
        Some(Effect::Spawn)
    }

    fn stopping(&mut self, definition: &Definition, pid: i32, then: Then, now: Instant) -> Option<Effect> {
        let deadline = now + definition.stop_deadline;
        self.enter(State::Stopping { pid, killed: false, then }, String::new(), Some(deadline), now);
        Some(Effect::Terminate(pid))
    }

    fn back_off(&mut self, reason: String, now: Instant) {
        let pause = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(LONGEST_BACKOFF);
        self.failures += 1;
        self.enter(State::BackOff, reason, Some(now + pause), now);
    }

    fn enter(&mut self, state: State, reason: String, deadline: Option<Instant>, now: Instant) {
        (self.state, self.reason, self.deadline, self.since) = (state, reason, deadline, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::definition::SERVICES;
    use super::*;

    const NOTHING: Event = Event::Tick(None);

    fn running(now: Instant) -> Life {
        let mut life = Life::new(now);
        assert_eq!(life.step(&SERVICES[2], NOTHING, now), Some(Effect::Spawn));
        life.step(&SERVICES[2], Event::Spawned(7), now);
        life
    }

    #[test]
    fn a_service_that_keeps_ending_starts_ever_later_and_counts_restarts() {
        let mut now = Instant::now();
        let mut life = running(now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            life.step(&SERVICES[2], Event::Ended("exit code 1".into()), now);
            assert_eq!(life.name(), "BackOff");
            assert_eq!(life.step(&SERVICES[2], NOTHING, now), None);
            pauses.push(life.deadline().unwrap() - now);
            now = life.deadline().unwrap();
            assert_eq!(life.step(&SERVICES[2], NOTHING, now), Some(Effect::Spawn));
            life.step(&SERVICES[2], Event::Spawned(8), now);
        }
        assert_eq!((pauses[0], pauses[1], pauses[9]), (FIRST_BACKOFF, FIRST_BACKOFF * 2, LONGEST_BACKOFF));
        assert_eq!(life.restarts, 10);
        now += HEALTHY_RUN;
        life.step(&SERVICES[2], Event::Ended("exit code 1".into()), now);
        assert_eq!(life.deadline().unwrap() - now, FIRST_BACKOFF);
    }

    #[test]
    fn a_service_that_hangs_is_killed_and_starts_again_and_says_why() {
        let now = Instant::now();
        let mut life = running(now);
        life.step(&SERVICES[2], Event::SaidReady, now);
        assert_eq!(life.step(&SERVICES[2], Event::Hangs, now), Some(Effect::Kill(7)));
        life.step(&SERVICES[2], Event::Ended("killed by SIGKILL".into()), now);
        assert_eq!((life.name(), life.reason.as_str(), life.hangs), ("BackOff", HANGS, 1));
        let later = life.deadline().unwrap();
        assert_eq!(life.step(&SERVICES[2], NOTHING, later), Some(Effect::Spawn));
        life.step(&SERVICES[2], Event::Spawned(8), later);
        life.step(&SERVICES[2], Event::Ended("exit code 1".into()), later);
        assert_eq!(life.reason, "ended: exit code 1", "this one did not hang");
        // One that even SIGKILL does not end (it waits in the kernel) is not healthy meanwhile.
        let mut life = running(now);
        life.step(&SERVICES[2], Event::SaidReady, now);
        life.step(&SERVICES[2], Event::Hangs, now);
        assert_eq!((life.name(), life.pid(), life.reason.as_str()), ("Running", 7, HANGS));
        // Stopped before its end is told, and started by hand: the new process did not hang.
        life.step(&SERVICES[2], Event::Stop, now);
        life.step(&SERVICES[2], Event::Ended("killed by SIGKILL".into()), now);
        life.step(&SERVICES[2], Event::Start, now);
        assert_eq!(life.step(&SERVICES[2], NOTHING, now), Some(Effect::Spawn));
        life.step(&SERVICES[2], Event::Spawned(9), now);
        life.step(&SERVICES[2], Event::Ended("exit code 1".into()), now);
        assert_eq!(life.reason, "ended: exit code 1");
        // A long run counts although the service hung at its end.
        let mut life = running(now);
        life.step(&SERVICES[2], Event::Ended("exit code 1".into()), now);
        let later = life.deadline().unwrap();
        life.step(&SERVICES[2], NOTHING, later);
        life.step(&SERVICES[2], Event::Spawned(8), later);
        life.step(&SERVICES[2], Event::Hangs, later + HEALTHY_RUN);
        life.step(&SERVICES[2], Event::Ended("killed by SIGKILL".into()), later + HEALTHY_RUN);
        assert_eq!(life.deadline(), Some(later + HEALTHY_RUN + FIRST_BACKOFF));
        // Somebody stops it already.
        let mut life = running(now);
        life.step(&SERVICES[2], Event::Stop, now);
        assert_eq!(life.step(&SERVICES[2], Event::Hangs, now), None);
    }

    #[test]
    fn a_stop_ends_with_the_cgroup_when_the_process_ignores_it() {
        let now = Instant::now();
        let mut life = running(now);
        assert_eq!(life.step(&SERVICES[2], Event::Stop, now), Some(Effect::Terminate(7)));
        assert_eq!(life.step(&SERVICES[2], NOTHING, now), None);
        let late = now + SERVICES[2].stop_deadline;
        assert_eq!(life.step(&SERVICES[2], NOTHING, late), Some(Effect::KillCgroup));
        assert_eq!(life.step(&SERVICES[2], Event::Ended("killed".into()), late), Some(Effect::KillCgroup));
        assert_eq!(life.name(), "Stopped");
        assert_eq!(life.step(&SERVICES[2], NOTHING, late), None);
        life.step(&SERVICES[2], Event::Start, late);
        assert_eq!(life.step(&SERVICES[2], NOTHING, late), Some(Effect::Spawn));
    }

    #[test]
    fn a_missing_program_fails_for_good_and_says_why() {
        let now = Instant::now();
        let mut life = Life::new(now);
        life.step(&SERVICES[0], NOTHING, now);
        life.step(
            &SERVICES[0],
            Event::SpawnFailed { missing: true, reason: "not in this image".into() },
            now,
        );
        assert_eq!((life.name(), life.reason.as_str()), ("Failed", "not in this image"));
        assert_eq!(life.step(&SERVICES[0], NOTHING, now), None);
    }

    #[test]
    fn readiness_that_does_not_come_is_said_and_does_not_kill() {
        let now = Instant::now();
        let mut life = running(now);
        let late = now + SERVICES[2].ready_deadline;
        assert_eq!(life.step(&SERVICES[2], NOTHING, late), None);
        assert_eq!(life.reason, "not ready after 60 s");
        life.step(&SERVICES[2], Event::SaidReady, late);
        assert_eq!((life.name(), life.reason.as_str()), ("Ready", ""));
    }

    #[test]
    fn a_waiting_service_names_what_it_waits_for() {
        let now = Instant::now();
        let mut life = Life::new(now);
        life.step(&SERVICES[2], Event::Tick(Some("the state volume")), now);
        assert_eq!((life.name(), life.reason.as_str()), ("Waiting", "waits for the state volume"));
    }
}
