//! Who may be connected: clients that have not said who they are have few places, and give them to newer
//! ones; those that have keep theirs.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use node_kit::strangers::network;
use tokio::sync::Notify;

/// Clients that have not said who they are, in total and from one address.
const STRANGERS: usize = 128;
const STRANGERS_OF_ADDRESS: usize = 32;
/// Clients that have.
const KNOWN: usize = 384;
/// Places among these that only clients with a certificate may take: the API server, which is asked for by
/// everybody.
const RESERVED: usize = 128;

/// The places of a listener; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The oldest first.
    strangers: BTreeMap<u64, Stranger>,
    known: usize,
}

#[derive(Debug)]
struct Stranger {
    address: IpAddr,
    leave: Arc<Notify>,
}

/// One client's place, for as long as its connection lasts.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    known: Mutex<bool>,
    leave: Arc<Notify>,
    pub(super) address: IpAddr,
}

impl Places {
    /// A place for a client that has not said who it is; the oldest such client leaves if there is none.
    pub(super) fn enter(&self, address: IpAddr) -> Place {
        let (address, leave) = (network(address), Arc::new(Notify::new()));
        let mut state = self.state();
        if let Some(oldest) = state.surplus(address)
            && let Some(stranger) = state.strangers.remove(&oldest)
        {
            stranger.leave.notify_one();
        }
        let number = state.next;
        state.next += 1;
        state.strangers.insert(number, Stranger { address, leave: leave.clone() });
        Place { places: self.clone(), number, known: Mutex::new(false), leave, address }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who leaves for one more client from `address`: the oldest from there when these have all their
    /// places, else the oldest of all.
    fn surplus(&self, address: IpAddr) -> Option<u64> {
        let mut neighbours = self.strangers.iter().filter(|(_, s)| s.address == address).map(|(n, _)| *n);
        let oldest = neighbours.next();
        if 1 + neighbours.count() >= STRANGERS_OF_ADDRESS && oldest.is_some() {
            return oldest;
        }
        let full = self.strangers.len() >= STRANGERS;
        full.then(|| self.strangers.keys().next().copied()).flatten()
    }
}

impl Place {
    /// The client has said who it is. False: no place is left for it. One that was told to leave leaves
    /// anyway.
    pub(super) fn know(&self, certificate: bool) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known {
            return true;
        }
        let mut state = self.places.state();
        if state.known >= if certificate { KNOWN } else { KNOWN - RESERVED } {
            return false;
        }
        state.strangers.remove(&self.number);
        state.known += 1;
        *known = true;
        true
    }

    /// Returns when a newer client needs the place.
    pub(super) async fn wanted(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.places.state();
        if known {
            state.known -= 1;
        } else {
            state.strangers.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    fn left(place: &Place) -> bool {
        place.wanted().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_of_an_address_goes_first_and_the_known_stay() {
        let places = Places::default();
        let other = places.enter(address(2));
        let mut own: Vec<Place> = (0..STRANGERS_OF_ADDRESS).map(|_| places.enter(address(1))).collect();
        assert!(own[1].know(true));
        own.push(places.enter(address(1)));
        assert!(own.iter().all(|place| !left(place)), "the known one left a place");
        own.push(places.enter(address(1)));
        assert!(left(&own[0]) && !left(&own[1]) && !left(&own[2]) && !left(&other));
    }

    #[test]
    fn many_addresses_take_each_others_places_alone() {
        let places = Places::default();
        let known = places.enter(address(9));
        assert!(known.know(false));
        let clients: Vec<Place> = (0..1000).map(|number| places.enter(address(100 + number))).collect();
        assert_eq!(clients.iter().filter(|client| !left(client)).count(), STRANGERS);
        assert!(!left(&known));
    }

    #[test]
    fn the_api_server_has_places_that_no_token_takes() {
        let places = Places::default();
        let clients: Vec<Place> = (0..KNOWN).map(|_| places.enter(address(1))).collect();
        assert_eq!(clients.iter().filter(|client| client.know(false)).count(), KNOWN - RESERVED);
        let servers: Vec<Place> = (0..KNOWN).map(|_| places.enter(address(2))).collect();
        assert_eq!(servers.iter().filter(|client| client.know(true)).count(), RESERVED);
        drop(clients);
        assert!(places.enter(address(1)).know(false));
    }

    #[test]
    fn a_client_has_a_64_of_ipv6_addresses() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("fd00::1", "fd00::ffff:1") && !same("fd00:0:0:1::1", "fd00::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
    }
}
