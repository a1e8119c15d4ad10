//! Whether a service gives signs of life, as a pure function of signs and of PID 1's own ticks.
//!
//! Only time in which PID 1 itself ran counts: a tick is a second at least, and one that comes late counts once. So a machine that stood still, as a VM that
//! was paused, ends nobody.

/// Ticks without a sign after which a service counts as hung. It gives one every 2 s.
const PATIENCE: u32 = 10;
/// Ticks that a service may take to its first sign: until then it reads its state and opens what it needs, on slow machines for long.
const PATIENCE_AT_START: u32 = 60;

/// One process' signs of life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heartbeat {
    signed: bool,
    silent: u32,
}

impl Heartbeat {
    /// The process has given a sign.
    pub fn sign(&mut self) {
        *self = Self { signed: true, silent: 0 };
    }

    /// One of PID 1's ticks; true at the one at which the process counts as hung, and not again before its next sign.
    pub fn tick(&mut self) -> bool {
        let patience = if self.signed { PATIENCE } else { PATIENCE_AT_START };
        self.silent = self.silent.saturating_add(1);
        self.silent == patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_lives_and_who_falls_silent_is_told_once() {
        let mut heart = Heartbeat::default();
        heart.sign();
        for second in 1..1000 {
            assert!(!heart.tick());
            if second % 9 == 0 {
                heart.sign();
            }
        }
        heart.sign();
        let told: Vec<u32> = (1..1000).filter(|_| heart.tick()).collect();
        assert_eq!(told, [PATIENCE]);
    }

    #[test]
    fn a_start_may_take_longer_and_not_for_ever() {
        let mut heart = Heartbeat::default();
        let told: Vec<u32> = (1..1000).filter(|_| heart.tick()).collect();
        assert_eq!(told, [PATIENCE_AT_START]);
    }
}
