//! The socket side of one link's DHCP client.
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, UdpSocket as StdUdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::codec;
use super::machine::{Machine, Output};
use machine::net::{DhcpLink, Report, WireLease};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long a link that cannot be used waits for its next attempt.
const PAUSE: Duration = Duration::from_secs(5);

/// Keeps a lease for `link` until it is aborted. `hint`: an address the link had before.
pub async fn run(link: DhcpLink, hint: Option<Ipv4Addr>, reports: mpsc::Sender<Report>) {
    loop {
        // Ends on errors only, such as a link that went down; init tells when it shall stop.
        if let Err(error) = serve(&link, hint, &reports).await {
            tracing::warn!(link = link.name, %error, "DHCP; trying again in 5 s");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn serve(link: &DhcpLink, hint: Option<Ipv4Addr>, reports: &mpsc::Sender<Report>) -> io::Result<()> {
    let mac: [u8; 6] = link.mac.as_slice().try_into().map_err(|_| io::Error::other("no Ethernet address"))?;
    let socket = open(&link.name)?;
    let mut machine = Machine::new(Instant::now(), RandomState::new().build_hasher().finish(), hint);
    let mut packet = vec![0; 1500];
    loop {
        let outputs = tokio::select! {
            received = socket.recv(&mut packet) => {
                let reply = codec::read(&packet[..received?], &link.name, machine.xid(), mac);
                reply.map(|reply| machine.receive(Instant::now(), reply)).unwrap_or_default()
            }
            () = tokio::time::sleep_until(machine.deadline().into()) => machine.tick(Instant::now()),
        };
        for output in outputs {
            match output {
                Output::Send { say, xid, to, seconds } => {
                    let packet = codec::write(say, xid, mac, seconds, &link.hostname);
                    let to = (to.unwrap_or(Ipv4Addr::BROADCAST), SERVER_PORT);
                    if let Err(error) = socket.send_to(&packet, to).await {
                        // Lost packets are the state machine's everyday life; this is only one more.
                        tracing::debug!(link = link.name, %error, "send a DHCP packet");
                    }
                }
                Output::Leased(lease) => report(reports, Report::Leased(WireLease::from(&*lease))).await,
                Output::Lost => report(reports, Report::Lost(link.name.clone())).await,
            }
        }
    }
}

async fn report(reports: &mpsc::Sender<Report>, report: Report) {
    // A closed channel means that the process ends.
    let _ = reports.send(report).await;
}

/// A socket for DHCP on one link, whether or not the link has an address.
fn open(link: &str) -> io::Result<UdpSocket> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    setsockopt(&socket, sockopt::BindToDevice, &link.into())?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT))?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}
