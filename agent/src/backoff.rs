//! Exponential back-off as the kubelet counts it: 10 s doubling to 300 s, forgotten after twice the longest wait.

/// Nanoseconds: since the machine booted where something is waited for, since the epoch where the runtime
/// or the API tells a time.
pub type Nanos = i64;
/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;
const FIRST: Nanos = 10 * SECOND;
const LONGEST: Nanos = 300 * SECOND;

/// The back-off of one container, or of one image of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    delay: Nanos,
    updated: Nanos,
}

impl Backoff {
    /// Until when to wait after something failed at `failed_at`; `None` when the wait is over.
    #[must_use]
    pub fn until(&self, failed_at: Nanos, now: Nanos) -> Option<Nanos> {
        if self.delay == 0 || failed_at - self.updated > 2 * LONGEST {
            return None;
        }
        let until = failed_at + self.delay;
        (until > now).then_some(until)
    }

    /// Counts one more try because of a failure at `failed_at`.
    pub fn next(&mut self, failed_at: Nanos, now: Nanos) {
        let forgotten = self.delay == 0 || failed_at - self.updated > 2 * LONGEST;
        self.delay = if forgotten { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.updated = now;
    }

    /// The current wait in nanoseconds.
    #[must_use]
    pub fn delay(&self) -> Nanos {
        self.delay
    }
}

/// The first and the longest wait before what failed is tried again
/// (pkg/util/goroutinemap/exponentialbackoff).
const FIRST_RETRY: Nanos = SECOND / 2;
const LONGEST_RETRY: Nanos = 122 * SECOND;

/// The next try of something that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    delay: Nanos,
    /// When.
    pub at: Nanos,
    /// Why it failed last.
    pub message: String,
}

impl Retry {
    /// After one more failure: half a second, doubling to two minutes and two seconds.
    #[must_use]
    pub fn after(previous: Option<&Self>, now: Nanos, message: &str) -> Self {
        let delay = previous.map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(LONGEST_RETRY));
        Self { delay, at: now + delay, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_ever_later() {
        let (mut retry, mut now, mut waits) = (None, 0, Vec::new());
        for _ in 0..10 {
            let next = Retry::after(retry.as_ref(), now, "busy");
            waits.push((next.at - now) / (SECOND / 2));
            now = next.at;
            retry = Some(next);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 244, 244]);
    }

    #[test]
    fn a_crashing_container_waits_ten_seconds_doubling_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = backoff.until(now, now).map_or(0, |until| until - now);
            waits.push(wait / SECOND);
            now += wait;
            backoff.next(now, now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300]);
    }

    #[test]
    fn ten_quiet_minutes_forget_it() {
        let mut backoff = Backoff::default();
        backoff.next(0, 0);
        backoff.next(0, SECOND);
        let later = 602 * SECOND;
        assert_eq!(backoff.until(later, later), None);
        backoff.next(later, later);
        assert_eq!(backoff.delay(), 10 * SECOND);
    }
}
