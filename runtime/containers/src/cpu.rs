//! How fast a cgroup uses processor time, told from two counts of it.
use std::sync::Mutex;

/// The last count of a cgroup's processor time that a rate was told from.
pub type LastCpu = Mutex<Option<CpuSample>>;

/// Counts closer together than this, in nanoseconds, say little: several clients may ask at once.
const APART: u64 = 1_000_000_000;

/// A count of processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSample {
    /// Unix time in nanoseconds.
    at: i64,
    /// Since the cgroup's start, in nanoseconds.
    used: u64,
    /// Nanoseconds per second, between the count before and this one.
    pub rate: Option<u64>,
}

impl CpuSample {
    /// What is to be remembered after a count. The rate is unknown at first, and when a clock or the count went back.
    pub fn after(last: Option<Self>, at: i64, used: u64) -> Self {
        let first = Self { at, used, rate: None };
        let Some(last) = last else { return first };
        match (u64::try_from(at - last.at), used.checked_sub(last.used)) {
            (Ok(elapsed), Some(_)) if elapsed < APART => last,
            (Ok(elapsed), Some(more)) => {
                let rate = u128::from(more) * u128::from(APART) / u128::from(elapsed);
                Self { rate: u64::try_from(rate).ok(), ..first }
            }
            _ => first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_between_two_counts() {
        const SECOND: i64 = 1_000_000_000;
        let first = CpuSample::after(None, 0, 5_000);
        assert_eq!(first.rate, None);
        let second = CpuSample::after(Some(first), 10 * SECOND, 5_000_005_000);
        assert_eq!(second.rate, Some(500_000_000));
        let soon = CpuSample::after(Some(second), 10 * SECOND + 1, 9_000_000_000);
        assert_eq!(soon, second, "another client asked just before");
        assert_eq!(CpuSample::after(Some(second), 20 * SECOND, 7).rate, None, "the count began anew");
        assert_eq!(CpuSample::after(Some(second), SECOND, 6_000_000_000).rate, None, "the clock went back");
    }
}
