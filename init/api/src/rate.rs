//! How often an address may ask: a token bucket for each, in a table of bounded size.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use node_kit::strangers::network;

/// Calls that an address may make at once.
const BURST: u32 = 20;
/// One more for each of these.
const REFILL: Duration = Duration::from_secs(3);
/// The most addresses kept in mind.
const ADDRESSES: usize = 1024;

/// Calls left to each address, as of a time.
#[derive(Debug, Default)]
pub struct Rate(Mutex<BTreeMap<IpAddr, (u32, Instant)>>);

impl Rate {
    /// Takes one call from the address's share; false when there is none left.
    pub fn allow(&self, address: IpAddr, now: Instant) -> bool {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if !table.contains_key(&address) && table.len() >= ADDRESSES {
            // Who has been quiet for the longest has the most of its share back: forgetting it changes the least.
            let quiet = table.iter().min_by_key(|(_, (_, at))| *at).map(|(address, _)| *address);
            quiet.map(|address| table.remove(&address));
        }
        let (left, at) = table.entry(address).or_insert((BURST, now));
        let refills = now.saturating_duration_since(*at).as_secs() / REFILL.as_secs();
        if refills > 0 {
            let more = u32::try_from(refills).unwrap_or(BURST);
            *left = left.saturating_add(more).min(BURST);
            *at = now;
        }
        if *left == 0 {
            return false;
        }
        *left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_used_up_and_comes_back() {
        let (rate, start) = (Rate::default(), Instant::now());
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert!((0..BURST).all(|_| rate.allow(a, start)));
        assert!(!rate.allow(a, start));
        assert!(rate.allow(b, start), "another's share is its own");
        assert!(rate.allow(a, start + REFILL));
        assert!(!rate.allow(a, start + REFILL));
    }

    #[test]
    fn neighbours_in_a_64_share_and_the_table_is_bounded() {
        let (rate, start) = (Rate::default(), Instant::now());
        for host in 0..BURST {
            assert!(rate.allow(format!("2001:db8::{host:x}").parse().unwrap(), start));
        }
        assert!(!rate.allow("2001:db8::ffff".parse().unwrap(), start));
        for host in 0..5000_u32 {
            rate.allow(std::net::Ipv4Addr::from_bits(host + 1).into(), start);
        }
        assert!(rate.0.lock().unwrap().len() <= ADDRESSES);
        assert!(rate.allow("203.0.113.1".parse().unwrap(), start), "a newcomer is heard");
        assert!(rate.0.lock().unwrap().len() <= ADDRESSES);
    }
}
