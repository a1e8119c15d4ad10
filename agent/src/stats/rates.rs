//! CPU use per second, from two counts.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::{NodeStats, Use};

/// Counts closer together than this say little.
const APART_MS: i64 = 5_000;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
}

/// The last counts of the node, its pods and their containers; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rates(Arc<Mutex<HashMap<String, Sample>>>);

impl Rates {
    /// Fills in what the runtime does not say, and forgets what is not among `stats`.
    pub fn fill(&self, stats: &mut NodeStats) {
        let Ok(mut last) = self.0.lock() else { return };
        let mut next = HashMap::with_capacity(last.len());
        let at = stats.time;
        let mut fill = |key: String, usage: &mut Use| {
            let Some(nanos) = usage.cpu_nanos else { return };
            let sample = advance(last.remove(&key), at, nanos);
            usage.cpu_nano_cores = usage.cpu_nano_cores.or(sample.rate);
            next.insert(key, sample);
        };
        fill(String::new(), &mut stats.node);
        for pod in &mut stats.pods {
            fill(pod.uid.clone(), &mut pod.usage);
            for container in &mut pod.containers {
                fill(container.id.clone(), &mut container.usage);
            }
        }
        *last = next;
    }
}

fn advance(last: Option<Sample>, at: Timestamp, nanos: u64) -> Sample {
    let first = Sample { at, nanos, rate: None };
    let Some(last) = last else { return first };
    let ms = at.as_millisecond() - last.at.as_millisecond();
    match nanos.checked_sub(last.nanos) {
        None => first,
        Some(_) if ms < APART_MS => last,
        Some(used) => Sample { rate: Some(used.saturating_mul(1000) / ms.unsigned_abs()), ..first },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_of_two_counts() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = advance(None, at(0), 1_000_000_000);
        assert_eq!(first.rate, None);
        let second = advance(Some(first), at(10), 6_000_000_000);
        assert_eq!(second.rate, Some(500_000_000));
        let soon = advance(Some(second), at(11), 9_000_000_000);
        assert_eq!((soon.rate, soon.nanos), (Some(500_000_000), 6_000_000_000), "too soon to say");
        assert_eq!(advance(Some(second), at(30), 5).rate, None, "the count began anew");
    }
}
