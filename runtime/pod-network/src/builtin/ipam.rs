//! Which address a pod gets: the next free one after the last given out, so that a freed address rests as long as the range allows.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The node's own address in a range: its first one, which the bridge has and pods use as gateway.
pub fn gateway(range: &IpNet) -> IpAddr {
    at(range, 1)
}

/// The next free address of `range` after `last`. Network, gateway and (IPv4) broadcast addresses are never given out.
pub fn allocate(range: &IpNet, used: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let first = 2;
    let end = end(range);
    if end <= first {
        return None;
    }
    let count = end - first;
    let start = match last {
        Some(last) if range.contains(&last) => {
            (number(last) - number(range.network()) + 1).max(first) - first
        }
        _ => 0,
    };
    // One more candidate than there are used ones: no search is longer than that, however large the range.
    (0..count.min(used.len() as u128 + 1))
        .map(|step| at(range, first + (start + step) % count))
        .find(|address| !used.contains(address))
}

/// The offset after the last address that may be given out.
fn end(range: &IpNet) -> u128 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(64);
    let size = 1_u128 << host_bits;
    if range.addr().is_ipv4() { size.saturating_sub(1) } else { size }
}

fn at(range: &IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network).wrapping_add(offset as u32)).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network).wrapping_add(offset)).into(),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The hardware address of whoever has `address`: derived from it, so that no neighbour entry is ever stale when an address
/// moves to another pod.
pub fn hardware_address(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (u128::from(address) as u32).to_be_bytes(),
    };
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_given_in_turn_and_a_freed_one_waits() {
        let range = net("10.244.3.0/29");
        let mut used = BTreeSet::new();
        let mut last = None;
        for expected in 2..=6_u8 {
            let address = allocate(&range, &used, last).unwrap();
            assert_eq!(address, IpAddr::from([10, 244, 3, expected]));
            used.insert(address);
            last = Some(address);
        }
        assert_eq!(allocate(&range, &used, last), None, "the range is used up");
        used.remove(&IpAddr::from([10, 244, 3, 4]));
        assert_eq!(allocate(&range, &used, last), Some(IpAddr::from([10, 244, 3, 4])));
    }

    #[test]
    fn a_just_freed_address_is_not_the_next() {
        let range = net("10.244.3.0/24");
        let first = allocate(&range, &BTreeSet::new(), None).unwrap();
        assert_ne!(allocate(&range, &BTreeSet::new(), Some(first)), Some(first));
    }

    #[test]
    fn ranges_too_small_for_a_pod_give_nothing() {
        for range in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30"] {
            let found = allocate(&net(range), &BTreeSet::new(), None);
            assert_eq!(found.is_some(), range == "10.0.0.0/30", "{range}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_inside(bits in 8_u8..=30, base: u32, taken in prop::collection::vec(0_u32..300, 0..200), last: Option<u32>) {
            let range: IpNet = ipnet::Ipv4Net::new(base.into(), bits).unwrap().trunc().into();
            let used: BTreeSet<IpAddr> = taken.iter().map(|offset| at(&range, u128::from(*offset))).collect();
            let last = last.map(|last| IpAddr::V4(last.into()));
            if let Some(address) = allocate(&range, &used, last) {
                prop_assert!(range.contains(&address) && !used.contains(&address));
                prop_assert!(address != range.network() && address != range.broadcast() && address != gateway(&range));
            }
        }

        #[test]
        fn ipv6_ranges_too(bits in 64_u8..=126, base: u128) {
            let range: IpNet = ipnet::Ipv6Net::new(base.into(), bits).unwrap().trunc().into();
            let address = allocate(&range, &BTreeSet::new(), None);
            prop_assert!(address.is_some_and(|address| range.contains(&address) && address != gateway(&range)));
        }
    }
}
