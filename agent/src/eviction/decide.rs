use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::signals::{Available, Signal};
use crate::cgroup::Amount;

/// How long a condition outlives its cause, so that it does not flap (evictionPressureTransitionPeriod).
const TRANSITION: Duration = Duration::from_secs(300);

/// The least that has to be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    Amount(u64),
    /// A part of the capacity, from 0 to 1.
    Fraction(f64),
}

impl Threshold {
    /// In the signal's unit.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Fraction(fraction) => (capacity as f64 * fraction) as u64,
        }
    }
}

/// A threshold that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("evictionHard {name}: {value:?} is neither a quantity nor a percentage of a known signal")]
pub struct ThresholdError {
    pub name: String,
    pub value: String,
}

/// Reads `evictionHard`. A threshold of `0%` or `100%` is switched off, as in the kubelet. One that is not understood is told, and the others hold without it.
pub fn thresholds(config: &BTreeMap<String, String>) -> (BTreeMap<Signal, Threshold>, Vec<ThresholdError>) {
    let (mut all, mut wrong) = (BTreeMap::new(), Vec::new());
    for (name, value) in config {
        match Signal::parse(name).zip(threshold(value)) {
            Some((signal, Some(threshold))) => drop(all.insert(signal, threshold)),
            Some((_, None)) => {}
            None => wrong.push(ThresholdError { name: name.clone(), value: value.clone() }),
        }
    }
    (all, wrong)
}

/// The threshold that a text says, `Some(None)` for none; `None` when it says nothing.
fn threshold(value: &str) -> Option<Option<Threshold>> {
    let Some(percent) = value.strip_suffix('%') else {
        let amount = Amount::parse(value).ok()?.value().max(0).unsigned_abs();
        return Some(Some(Threshold::Amount(amount)));
    };
    let percent: f64 = percent.parse().ok()?;
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    Some((percent > 0.0 && percent < 100.0).then_some(Threshold::Fraction(percent / 100.0)))
}

/// The node's pressure conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

/// Remembers when each threshold was last met.
#[derive(Debug, Clone, Default)]
pub struct Decider {
    last_met: BTreeMap<Signal, Instant>,
}

impl Decider {
    /// The thresholds that are met now, the one to act on first (memory before disk before process ids), and the node's conditions.
    pub fn decide(
        &mut self,
        thresholds: &BTreeMap<Signal, Threshold>,
        seen: &BTreeMap<Signal, Available>,
        now: Instant,
    ) -> (Vec<Signal>, Pressures) {
        let met = |signal: &Signal| {
            let (Some(threshold), Some(available)) = (thresholds.get(signal), seen.get(signal)) else {
                return false;
            };
            available.left < threshold.of(available.capacity)
        };
        let met: Vec<Signal> = thresholds.keys().filter(|signal| met(signal)).copied().collect();
        self.last_met.extend(met.iter().map(|signal| (*signal, now)));
        self.last_met.retain(|_, at| now.duration_since(*at) < TRANSITION);
        let active = |signals: &[Signal]| signals.iter().any(|signal| self.last_met.contains_key(signal));
        let pressures = Pressures {
            memory: active(&[Signal::MemoryAvailable]),
            disk: active(&[
                Signal::NodefsAvailable,
                Signal::NodefsInodesFree,
                Signal::ImagefsAvailable,
                Signal::ImagefsInodesFree,
                Signal::ContainerfsAvailable,
                Signal::ContainerfsInodesFree,
            ]),
            pid: active(&[Signal::PidAvailable]),
        };
        (met, pressures)
    }
}
