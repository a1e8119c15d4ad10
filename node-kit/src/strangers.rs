//! Who has connected and is nobody yet: so many in all, so many of an address. A newcomer always finds a place, at the cost of whoever has had the
//! longest to say who it is.
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Room for strangers.
#[derive(Debug)]
pub struct Strangers {
    total: usize,
    per_address: usize,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    next: u64,
    /// The oldest first.
    there: Vec<There>,
}

#[derive(Debug)]
struct There {
    number: u64,
    address: IpAddr,
    leave: CancellationToken,
}

/// A stranger's place until this is dropped.
#[derive(Debug)]
pub struct Stay {
    strangers: Arc<Strangers>,
    number: u64,
    /// Cancelled when another takes the place.
    pub leave: CancellationToken,
}

impl Strangers {
    /// Room for `total` in all, and for `per_address` of one address (of IPv6: of one /64).
    pub fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, room: Mutex::default() })
    }

    /// A place for one more of this address; somebody leaves for it if need be.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Stay {
        let address = network(address);
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = who_leaves(&room.there, address, self.total, self.per_address) {
            room.there.remove(at).leave.cancel();
        }
        let (number, leave) = (room.next, CancellationToken::new());
        room.next += 1;
        room.there.push(There { number, address, leave: leave.clone() });
        Stay { strangers: Arc::clone(self), number, leave }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut room = self.strangers.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.there.retain(|other| other.number != self.number);
    }
}

/// Whose place a newcomer gets: that of the oldest of its own address when that has its share, otherwise, when all are taken, that of the oldest
/// of the address with the most.
fn who_leaves(there: &[There], newcomer: IpAddr, total: usize, per_address: usize) -> Option<usize> {
    let of = |address: IpAddr| there.iter().filter(|other| other.address == address).count();
    let oldest = |address: IpAddr| there.iter().position(|other| other.address == address);
    if of(newcomer) >= per_address {
        return oldest(newcomer);
    }
    if there.len() < total {
        return None;
    }
    // Of those with equally many the first, whose oldest is the oldest of all.
    let crowd = there.iter().rev().max_by_key(|other| of(other.address))?;
    oldest(crowd.address)
}

/// What one client may have many of: a host has a whole /64 of IPv6 to itself.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_crowd_makes_room_for_itself_and_others() {
        let strangers = Strangers::new(4, 3);
        let mut crowd: Vec<_> = (0..3).map(|_| strangers.enter(address("192.0.2.1"))).collect();
        crowd.push(strangers.enter(address("192.0.2.1")));
        let gone = |stays: &[Stay]| stays.iter().map(|stay| stay.leave.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(gone(&crowd), [true, false, false, false], "its own oldest");
        let others = [strangers.enter(address("192.0.2.2")), strangers.enter(address("2001:db8::1"))];
        assert_eq!(gone(&crowd), [true, true, false, false], "the oldest of the crowd");
        assert_eq!(gone(&others), [false, false]);
        assert!(strangers.room.lock().unwrap().there.len() <= 4);
        drop((crowd, others));
        assert!(strangers.room.lock().unwrap().there.is_empty());
    }

    #[test]
    fn when_all_are_alone_the_oldest_leaves() {
        let strangers = Strangers::new(2, 3);
        let first = strangers.enter(address("2001:db8:0:1::1"));
        let second = strangers.enter(address("2001:db8:0:2::1"));
        let third = strangers.enter(address("2001:db8:0:3::1"));
        let gone = [&first, &second, &third].map(|stay| stay.leave.is_cancelled());
        assert_eq!(gone, [true, false, false]);
    }
}
