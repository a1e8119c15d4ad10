//! The client's state machine: packets and time in, packets and lease changes out. No IO, no clock of its own.
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::codec::{Reply, Say, Terms};
use machine::net::Lease;

/// The first retransmission; later ones double up to [`SLOWEST`].
const FIRST: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(32);
/// How often an offer is asked for before looking for another.
const REQUESTS: u32 = 4;
/// Renewals are at least this far apart (RFC 2131 §4.4.5).
const RENEWAL_GAP: Duration = Duration::from_secs(60);
/// Leases are not believed to be shorter than this.
const SHORTEST: u32 = 60;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to a server, or to all (`None`).
    Send { say: Say, xid: u32, to: Option<Ipv4Addr>, seconds: u16 },
    /// A lease is ours, anew or renewed.
    Leased(Box<Lease>),
    /// The lease is over.
    Lost,
}

#[derive(Debug, Clone)]
enum State {
    Selecting { attempt: u32, hint: Option<Ipv4Addr> },
    Requesting { attempt: u32, offer: Box<Terms> },
    Bound { terms: Box<Terms>, renew: Instant, rebind: Instant, expiry: Option<Instant> },
}

/// One link's client.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    xid: u32,
    since: Instant,
    deadline: Instant,
    random: u64,
}

impl Machine {
    /// A client that starts to look at once. `seed` makes its transaction ids and pauses its own; `hint` is an address it had before.
    pub fn new(now: Instant, seed: u64, hint: Option<Ipv4Addr>) -> Self {
        let mut machine = Self {
            state: State::Selecting { attempt: 0, hint },
            xid: 0,
            since: now,
            deadline: now,
            random: seed | 1,
        };
        machine.xid = machine.random() as u32;
        machine
    }

    /// When [`Self::tick`] is due.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The transaction that answers must carry.
    pub const fn xid(&self) -> u32 {
        self.xid
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Output> {
        if now < self.deadline {
            return Vec::new();
        }
        match self.state.clone() {
            State::Selecting { attempt, hint } => {
                self.state = State::Selecting { attempt: attempt + 1, hint };
                self.deadline = now + self.pause(attempt);
                vec![self.send(now, Say::Discover { hint }, None)]
            }
            State::Requesting { attempt, offer } if attempt >= REQUESTS => {
                let hint = Some(offer.lease.address.addr());
                self.restart(now, hint);
                self.tick(now)
            }
            State::Requesting { attempt, offer } => {
                let say = Say::Request { address: offer.lease.address.addr(), server: offer.lease.server };
                self.state = State::Requesting { attempt: attempt + 1, offer };
                self.deadline = now + self.pause(attempt);
                vec![self.send(now, say, None)]
            }
            State::Bound { terms, renew, rebind, expiry } => self.extend(now, &terms, renew, rebind, expiry),
        }
    }

    /// Renews with the server that gave the lease, then with any, until the lease is over.
    fn extend(
        &mut self,
        now: Instant,
        terms: &Terms,
        renew: Instant,
        rebind: Instant,
        expiry: Option<Instant>,
    ) -> Vec<Output> {
        let address = terms.lease.address.addr();
        let Some(expiry) = expiry else {
            self.deadline = now + Duration::from_secs(86400);
            return Vec::new();
        };
        if now >= expiry {
            self.restart(now, Some(address));
            let mut outputs = vec![Output::Lost];
            outputs.extend(self.tick(now));
            return outputs;
        }
        if now < renew {
            self.deadline = renew;
            return Vec::new();
        }
        let (to, next) = if now < rebind { (Some(terms.lease.server), rebind) } else { (None, expiry) };
        let half = next.saturating_duration_since(now) / 2;
        self.deadline = (now + half.max(RENEWAL_GAP)).min(next);
        if now == renew {
            self.since = now;
        }
        vec![self.send(now, Say::Renew { address }, to)]
    }

    /// A server has answered.
    pub fn receive(&mut self, now: Instant, reply: Reply) -> Vec<Output> {
        match (self.state.clone(), reply) {
            (State::Selecting { .. }, Reply::Offer(offer)) => {
                self.state = State::Requesting { attempt: 0, offer };
                self.deadline = now;
                self.tick(now)
            }
            (State::Requesting { offer, .. }, Reply::Ack(terms))
                if terms.lease.server == offer.lease.server =>
            {
                self.bind(now, terms)
            }
            (State::Bound { renew, .. }, Reply::Ack(terms)) if now >= renew => self.bind(now, terms),
            (State::Requesting { .. }, Reply::Nak) => {
                self.restart(now, None);
                // A server that refuses what it offered must not make us ask at full speed.
                self.deadline = now + FIRST;
                Vec::new()
            }
            (State::Bound { renew, .. }, Reply::Nak) if now >= renew => {
                self.restart(now, None);
                let mut outputs = vec![Output::Lost];
                outputs.extend(self.tick(now));
                outputs
            }
            _ => Vec::new(),
        }
    }

    fn bind(&mut self, now: Instant, terms: Box<Terms>) -> Vec<Output> {
        let seconds = terms.lease.seconds.max(SHORTEST);
        let after = |seconds: u32| now + Duration::from_secs(seconds.into());
        let rebind = terms.rebind.filter(|t2| *t2 < seconds).unwrap_or(seconds / 8 * 7);
        let renew = terms.renew.filter(|t1| *t1 < rebind).unwrap_or(seconds / 2).min(rebind);
        let lease = terms.lease.clone();
        // All ones means for ever.
        let expiry = (seconds != u32::MAX).then(|| after(seconds));
        self.state = State::Bound { terms, renew: after(renew), rebind: after(rebind), expiry };
        self.deadline = after(renew);
        vec![Output::Leased(Box::new(lease))]
    }

    fn restart(&mut self, now: Instant, hint: Option<Ipv4Addr>) {
        self.state = State::Selecting { attempt: 0, hint };
        self.xid = self.random() as u32;
        self.since = now;
        self.deadline = now;
    }

    fn send(&self, now: Instant, say: Say, to: Option<Ipv4Addr>) -> Output {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        Output::Send { say, xid: self.xid, to, seconds: u16::try_from(seconds).unwrap_or(u16::MAX) }
    }

    /// Doubling, with an eighth of chance, so that a rack of machines does not ask in step.
    fn pause(&mut self, attempt: u32) -> Duration {
        let pause = FIRST.saturating_mul(1 << attempt.min(10)).min(SLOWEST);
        pause + pause.mul_f64((self.random() % 1000) as f64 / 8000.0)
    }

    /// xorshift64: cheap, and nothing here is a secret.
    const fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests;
