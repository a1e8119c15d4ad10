//! The clock, set by what time servers say: far off, it jumps; a little off, it is steered.
use std::time::Duration;

use super::NetHandle;

/// Beyond this many nanoseconds the clock jumps (as NTP's step threshold).
const STEP: i64 = 128_000_000;

/// How a clock that is off by some nanoseconds is put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    Step(i64),
    Slew(i64),
}

/// Decides how to correct an offset (nanoseconds to add).
pub const fn correction(offset: i64) -> Correction {
    if offset.unsigned_abs() > STEP.unsigned_abs() {
        Correction::Step(offset)
    } else {
        Correction::Slew(offset)
    }
}

/// Sets the clock whenever `pintle-net` reports an offset. Runs for ever.
pub async fn run(net: NetHandle) {
    let mut clock = net.clock();
    while clock.changed().await.is_ok() {
        let Some(sample) = clock.borrow_and_update().clone() else { continue };
        let result = match correction(sample.offset) {
            Correction::Step(offset) => {
                let shown = Duration::from_nanos(offset.unsigned_abs());
                let sign = if offset < 0 { "back" } else { "forward" };
                tracing::info!(server = sample.server, "clock set {sign} by {shown:?}");
                sys::clock::step(offset)
            }
            Correction::Slew(offset) => sys::clock::slew(offset),
        };
        if let Err(error) = result.and_then(|()| sys::clock::mark_synchronized()) {
            tracing::warn!(%error, server = sample.server, offset = sample.offset, "correct the clock");
        }
        net.corrected();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_offsets_are_steered_and_large_ones_jump() {
        assert_eq!(correction(127_000_000), Correction::Slew(127_000_000));
        assert_eq!(correction(-129_000_000), Correction::Step(-129_000_000));
        assert_eq!(correction(i64::MIN), Correction::Step(i64::MIN));
    }
}
