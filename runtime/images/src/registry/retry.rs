//! When a request that failed is made again, and which connections count as living.
use std::time::{Duration, Instant};

use super::{CONNECTING, PullError};

/// The first pause; it doubles each time.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause that a registry may ask for.
const LONGEST: Duration = Duration::from_secs(30);
/// Bytes that a connection must bring to count as one that brings something.
pub const ENOUGH: u64 = 16 << 10;

/// How long to wait before the next try after `fruitless` tries in a row; `None` when there shall be none.
pub fn pause(error: &PullError, fruitless: u32, most: u32) -> Option<Duration> {
    let asked = match error {
        PullError::Transport { .. } => Duration::ZERO,
        PullError::Status { status, retry_after, .. } if *status >= 500 || matches!(status, 408 | 429) => {
            retry_after.unwrap_or_default().min(LONGEST)
        }
        _ => return None,
    };
    (fruitless < most).then(|| asked.max(FIRST * 2_u32.pow(fruitless.min(16))))
}

/// Whether another server is the better next try than the same one: it cannot be reached, or says nothing.
pub fn is_dead(error: &PullError) -> bool {
    let PullError::Transport { action, source, .. } = error else { return false };
    *action == CONNECTING || source.kind() == std::io::ErrorKind::TimedOut
}

/// Tells a slow connection from one that only pretends: within `patience` it must bring [`ENOUGH`].
#[derive(Debug)]
pub struct Pace {
    patience: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, since: now, bytes: 0 }
    }

    /// Until when enough must have come.
    pub fn deadline(&self) -> Instant {
        self.since + self.patience
    }

    /// Bytes have come.
    pub fn count(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        if self.bytes >= ENOUGH {
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// Time that passed for another reason than the connection.
    pub fn forgive(&mut self, time: Duration) {
        self.since += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> PullError {
        let retry_after = retry_after.map(Duration::from_secs);
        PullError::Status { url: "r/v2/x".into(), status, message: String::new(), retry_after }
    }

    fn broken(action: &'static str, kind: std::io::ErrorKind) -> PullError {
        PullError::Transport { url: "r/v2/x".into(), action, source: kind.into() }
    }

    #[test]
    fn what_may_pass_is_tried_again_with_growing_pauses_and_not_for_ever() {
        let millis = |error: &PullError, n| pause(error, n, 3).map(|pause| pause.as_millis());
        assert_eq!(
            [0, 1, 2, 3].map(|n| millis(&status(500, None), n)),
            [Some(250), Some(500), Some(1000), None]
        );
        assert_eq!(millis(&broken("request", std::io::ErrorKind::BrokenPipe), 0), Some(250));
        for lasting in [status(400, None), PullError::Malformed("x".into()), PullError::NotFound("x".into())]
        {
            assert_eq!(pause(&lasting, 0, 3), None);
        }
    }

    #[test]
    fn a_registry_may_ask_for_a_pause_within_bounds() {
        assert_eq!(pause(&status(429, Some(2)), 0, 3), Some(Duration::from_secs(2)));
        assert_eq!(pause(&status(503, Some(86_400)), 0, 3), Some(LONGEST));
        assert_eq!(pause(&status(429, Some(1)), 3, 3), None);
    }

    #[test]
    fn a_server_that_is_not_there_is_told_from_one_that_stumbles() {
        assert!(is_dead(&broken(CONNECTING, std::io::ErrorKind::ConnectionRefused)));
        assert!(is_dead(&broken("waiting for an answer", std::io::ErrorKind::TimedOut)));
        assert!(!is_dead(&broken("request", std::io::ErrorKind::BrokenPipe)));
        assert!(!is_dead(&status(500, None)));
    }

    #[test]
    fn drops_do_not_keep_a_connection_alive() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(10 * second, start);
        pace.count(ENOUGH - 1, start + 9 * second);
        assert_eq!(pace.deadline(), start + 10 * second);
        pace.count(1, start + 9 * second);
        assert_eq!(pace.deadline(), start + 19 * second);
        pace.forgive(5 * second);
        assert_eq!(pace.deadline(), start + 24 * second);
    }
}
