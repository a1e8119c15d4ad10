//! Which images go (pkg/kubelet/images). Pure.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the file system in use from which on images go.
    pub high: u64,
    /// Percent in use at which it is enough.
    pub low: u64,
    pub min_age: Duration,
    /// Unused for longer, an image goes in any case; zero: never.
    pub max_age: Duration,
}

/// An image as the runtime has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    /// Bytes.
    pub size: u64,
    pub pinned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    size: u64,
    pinned: bool,
    first_seen: Instant,
    last_used: Option<Instant>,
}

/// What is remembered of images while the agent runs.
#[derive(Debug)]
pub struct Records {
    began: Instant,
    images: BTreeMap<String, Record>,
}

impl Records {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now, images: BTreeMap::new() }
    }

    /// Takes note of the images there are, and of those in use.
    pub fn see(&mut self, images: &[Image], in_use: &BTreeSet<String>, now: Instant) {
        self.images.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let record = self.images.entry(image.id.clone()).or_insert(Record {
                size: 0,
                pinned: false,
                first_seen: now,
                last_used: None,
            });
            (record.size, record.pinned) = (image.size, image.pinned);
            if in_use.contains(&image.id) {
                record.last_used = Some(now);
            }
        }
    }

    /// Images that have been unused for too long.
    #[must_use]
    pub fn old(&self, policy: &Policy, now: Instant) -> Vec<(String, u64)> {
        let age = |at: Instant| now.saturating_duration_since(at);
        // What was in use before this agent began is not known until it has watched for as long.
        if policy.max_age.is_zero() || age(self.began) <= policy.max_age {
            return Vec::new();
        }
        let unused = self.candidates(now);
        unused.filter(|(_, r)| r.last_used.is_none_or(|at| age(at) > policy.max_age)).map(pair).collect()
    }

    /// Unused images of at least `bytes` together, those last used longest ago first.
    #[must_use]
    pub fn for_space(&self, bytes: u64, min_age: Duration, now: Instant) -> Vec<(String, u64)> {
        let settled = |r: &Record| now.saturating_duration_since(r.first_seen) >= min_age;
        let mut unused: Vec<_> = self.candidates(now).filter(|(_, r)| settled(r)).collect();
        unused.sort_by_key(|(_, r)| (r.last_used, r.first_seen));
        let mut freed = 0_u64;
        let enough = |(_, size): &(String, u64)| {
            let go_on = freed < bytes;
            freed = freed.saturating_add(*size);
            go_on
        };
        unused.into_iter().map(pair).take_while(enough).collect()
    }

    fn candidates(&self, now: Instant) -> impl Iterator<Item = (&String, &Record)> {
        self.images.iter().filter(move |(_, r)| !r.pinned && r.last_used.is_none_or(|at| at < now))
    }
}

fn pair((id, record): (&String, &Record)) -> (String, u64) {
    (id.clone(), record.size)
}

/// Bytes to free so that the file system is down at the low mark; `None` below the high one.
#[must_use]
pub fn to_free(capacity: u64, available: u64, policy: &Policy) -> Option<u64> {
    let available = available.min(capacity);
    let used = 100 - available.saturating_mul(100).checked_div(capacity)?;
    let wanted = capacity / 100 * 100_u64.saturating_sub(policy.low);
    (used >= policy.high).then(|| wanted.saturating_sub(available))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high: 85, low: 80, min_age: Duration::from_secs(120), max_age: Duration::from_secs(3600) };

    fn image(id: &str, size: u64) -> Image {
        Image { id: id.into(), size, pinned: id == "pinned" }
    }

    fn ids(images: Vec<(String, u64)>) -> Vec<String> {
        images.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn nothing_goes_below_the_high_mark() {
        assert_eq!(to_free(1000, 160, &POLICY), None);
        assert_eq!(to_free(1000, 150, &POLICY), Some(50));
        assert_eq!(to_free(0, 0, &POLICY), None);
    }

    #[test]
    fn the_longest_unused_goes_first_and_used_new_and_pinned_ones_stay() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut records = Records::new(start);
        let images = [image("a", 10), image("b", 10), image("used", 10), image("pinned", 10)];
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        records.see(&images, &used(&["a", "b", "used"]), at(0));
        records.see(&images, &used(&["a", "used"]), at(100));
        let mut later = images.to_vec();
        later.push(image("new", 10));
        records.see(&later, &used(&["used"]), at(200));
        let go = |bytes| ids(records.for_space(bytes, POLICY.min_age, at(200)));
        assert_eq!(go(5), ["b"]);
        assert_eq!(go(11), ["b", "a"]);
        assert_eq!(go(u64::MAX), ["b", "a"]);
    }

    #[test]
    fn age_counts_once_the_agent_has_watched_long_enough() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut records = Records::new(start);
        records.see(&[image("a", 1), image("pinned", 1)], &BTreeSet::new(), at(0));
        assert_eq!(records.old(&POLICY, at(3600)), []);
        assert_eq!(ids(records.old(&POLICY, at(3601))), ["a"]);
        let never = Policy { max_age: Duration::ZERO, ..POLICY };
        assert_eq!(records.old(&never, at(9999)), []);
    }
}
