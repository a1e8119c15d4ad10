//! Networks without root: a NIC behind QEMU's user-mode stack, and one on a LAN that the cluster's machines share.
use std::net::{TcpListener, UdpSocket};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Group that the machines of a LAN send frames to; it never leaves the host's loopback.
const GROUP: &str = "230.0.0.1";

/// A TCP port of the host's loopback, forwarded to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

/// A TCP port nobody listens on now.
///
/// # Errors
/// When loopback has none.
pub fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free TCP port on loopback")?.local_addr()?.port())
}

/// A UDP port nobody listens on now; the machines of one LAN share it.
///
/// # Errors
/// When loopback has none.
pub fn free_udp_port() -> Result<u16> {
    Ok(UdpSocket::bind(("127.0.0.1", 0)).context("find a free UDP port on loopback")?.local_addr()?.port())
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
    fn forwards_are_on_loopback_only() {
        let arguments = user("52:54:00:00:00:01", &[Forward { host: 7000, guest: 6443 }], "");
        assert_eq!(arguments[1], "user,id=user,hostfwd=tcp:127.0.0.1:7000-:6443");
    }
}
