//! Networks without root: a NIC behind QEMU's user-mode stack, and one on a LAN that the cluster's machines share.
use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Group that the machines of a LAN send frames to; it never leaves the host's loopback.
const GROUP: &str = "230.0.0.1";

/// A TCP port of the host's loopback, forwarded to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

/// Below the ports that the kernel gives to connections (ip_local_port_range in ip(7)): what is free here stays so until QEMU takes it, and while a
/// machine is off.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// Ports that this process has given out: QEMU takes them only later.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A TCP port that nobody listens on and that was not given out before.
///
/// # Errors
/// When loopback has none.
pub fn free_tcp_port() -> Result<u16> {
    free_port("TCP", |port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// A UDP port that nobody listens on and that was not given out before; the machines of one LAN share it.
///
/// # Errors
/// When loopback has none.
pub fn free_udp_port() -> Result<u16> {
    free_port("UDP", |port| UdpSocket::bind(("127.0.0.1", port)).is_ok())
}

fn free_port(kind: &str, is_free: impl Fn(u16) -> bool) -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random::from_clock();
    let port = (0..PORTS.len())
        .map(|_| PORTS.start + random.below(PORTS.len()) as u16)
        .find(|port| !given.contains(port) && is_free(*port))
        .with_context(|| format!("find a free {kind} port on loopback"))?;
    given.insert(port);
    Ok(port)
}

/// Hardware address of node `number` on the user-mode NIC.
#[must_use]
pub fn user_mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// Hardware address of node `number` on the cluster LAN.
#[must_use]
pub fn lan_mac(number: u8) -> String {
    format!("52:54:00:05:00:{number:02x}")
}

/// Address of node `number` (from 1) on the cluster LAN 10.5.0.0/24.
#[must_use]
pub fn lan_address(number: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 5, 0, 9 + number)
}

/// QEMU's arguments for the user-mode NIC; `boot` is further netdev options for network boot.
#[must_use]
pub fn user(mac: &str, forwards: &[Forward], boot: &str) -> [String; 4] {
    let mut netdev = String::from("user,id=user");
    for Forward { host, guest } in forwards {
        netdev += &format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
    }
    ["-netdev".into(), netdev + boot, "-device".into(), format!("virtio-net-pci,netdev=user,mac={mac}")]
}

/// QEMU's arguments for the LAN's NIC.
#[must_use]
pub fn lan(mac: &str, port: u16) -> [String; 4] {
    [
        "-netdev".into(),
        format!("socket,id=lan,mcast={GROUP}:{port},localaddr=127.0.0.1"),
        "-device".into(),
        format!("virtio-net-pci,netdev=lan,mac={mac},romfile="),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_out_twice() -> Result<()> {
        let ports = (0..500).map(|_| free_tcp_port()).collect::<Result<Vec<_>>>()?;
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        Ok(())
    }

    #[test]
    fn forwards_are_on_loopback_only() {
        let arguments = user("52:54:00:00:00:01", &[Forward { host: 7000, guest: 6443 }], "");
        assert_eq!(arguments[1], "user,id=user,hostfwd=tcp:127.0.0.1:7000-:6443");
    }
}
