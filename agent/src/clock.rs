//! The agent's two clocks; what decides takes a time as an argument.
use crate::backoff::Nanos;

/// Nanoseconds since the machine booted: what is waited for does not depend on what the clock is set to.
#[must_use]
pub fn now() -> Nanos {
    Nanos::try_from(node_kit::clock::boottime().as_nanos()).unwrap_or(Nanos::MAX)
}

/// Nanoseconds since the epoch, as the API server and the runtime count.
#[must_use]
pub fn wall() -> Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
}
