use k8s_openapi::api::core::v1::Probe;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// How many equal results in a row change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub success: u32,
    pub failure: u32,
}

impl Thresholds {
    /// Those of a probe, with the API's defaults.
    #[must_use]
    pub fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
        }
    }
}

/// Turns single results into states.
#[derive(Debug, Clone, Copy)]
pub struct Tracker {
    thresholds: Thresholds,
    state: Option<bool>,
    last: Option<bool>,
    run: u32,
}

impl Tracker {
    /// Begins in `state`; `None` is neither.
    #[must_use]
    pub fn new(thresholds: Thresholds, state: Option<bool>) -> Self {
        Self { thresholds, state, last: None, run: 0 }
    }

    /// Takes one result; the new state if it changes.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { self.thresholds.success } else { self.thresholds.failure };
        if self.run < needed || self.state == Some(success) {
            return None;
        }
        self.state = Some(success);
        Some(success)
    }
}
