//! Netfilter over netlink, for what is done for every pod and must not cost the start of a program: elements of our
//! sets (nfnetlink's nf_tables) and conntrack's entries (ctnetlink). Messages are as in `linux/netfilter/nfnetlink.h`,
//! `nf_tables.h` and `nfnetlink_conntrack.h`.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// How long the kernel may take for an answer.
const DEADLINE_SECONDS: i64 = 5;
/// The kernel's answers are not longer.
const BUFFER: usize = 64 << 10;
const HEADER: usize = 16;
/// nfgenmsg: family, version, resource.
const GENERAL: usize = 4;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_ELEMENT: u16 = NF_TABLES << 8 | 12;
const DELETE_ELEMENT: u16 = NF_TABLES << 8 | 14;
/// NFPROTO_INET: the family of our table.
const INET: u8 = 1;

const ENTRY: u16 = 1 << 8;
const GET_ENTRIES: u16 = 1 << 8 | 1;
const DELETE_ENTRY: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
/// CTA_FILTER_ORIG_FLAGS, and its bits for the protocol and the destination port.
const ORIG_FLAGS: u16 = 1;
const BY_PROTOCOL_AND_DESTINATION_PORT: u32 = 1 << 3 | 1 << 5;
const UDP: u8 = 17;

/// A message under construction; more than one go out together.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    /// Where the message that is written now begins.
    start: usize,
    sequence: u32,
}

impl Messages {
    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.sequence += 1;
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.close();
    }

    /// The message's length, as it is now.
    fn close(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.close();
    }

    fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inside(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.close();
    }
}

/// Attributes one after the other: kind and value. What is cut short ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A connection to netfilter of the calling thread's network namespace.
struct Netfilter(OwnedFd);

impl Netfilter {
    fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(DEADLINE_SECONDS, 0))?;
        Ok(Self(socket))
    }

    /// Sends, and hands each answer to `each`, until `acknowledgements` of them or the end of a dump.
    fn ask(
        &self,
        messages: &Messages,
        mut acknowledgements: usize,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let sent = send(self.0.as_raw_fd(), &messages.bytes, MsgFlags::empty())?;
        if sent != messages.bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let size = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..size];
            while let Some(head) = rest.first_chunk::<HEADER>() {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
                match u16::from_ne_bytes([head[4], head[5]]) {
                    ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                        acknowledgements = acknowledgements.saturating_sub(1);
                        if acknowledgements == 0 {
                            return Ok(());
                        }
                    }
                    DONE => return Ok(()),
                    kind => each(kind, body.get(GENERAL..).unwrap_or_default()),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// An element's set and key: an address and the hardware address that may send from it.
type Source = (IpAddr, [u8; 6]);

fn element(messages: &mut Messages, kind: u16, flags: u16, (address, hardware): Source) {
    let set: &[u8] = if address.is_ipv4() { b"sources4\0" } else { b"sources6\0" };
    let mut key = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Each part of a key fills whole words.
    key.extend_from_slice(&hardware);
    key.extend_from_slice(&[0; 2]);
    messages.begin(kind, REQUEST | ACK | flags, INET, 0);
    messages.attribute(1, b"pintle\0");
    messages.attribute(2, set);
    messages.nested(3, |list| list.nested(1, |element| element.nested(1, |value| value.attribute(1, &key))));
}

fn change(kind: u16, flags: u16, sources: &[Source]) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.begin(BATCH_BEGIN, REQUEST, 0, NF_TABLES);
    for source in sources {
        element(&mut messages, kind, flags, *source);
    }
    messages.begin(BATCH_END, REQUEST, 0, NF_TABLES);
    Netfilter::open()?.ask(&messages, sources.len(), |_, _| {})
}

/// Lets what is sent from these addresses, by these hardware addresses, come in from the bridge: all of it or nothing.
///
/// # Errors
/// As the kernel says; `NotFound` without the table.
pub fn allow(sources: &[Source]) -> io::Result<()> {
    if sources.is_empty() { Ok(()) } else { change(NEW_ELEMENT, CREATE, sources) }
}

/// The contrary of [`allow`]. What is not there is no error.
///
/// # Errors
/// As the kernel says.
pub fn forbid(sources: &[Source]) -> io::Result<()> {
    for source in sources {
        match change(DELETE_ELEMENT, 0, &[*source]) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            result => result?,
        }
    }
    Ok(())
}

/// What conntrack's entry was made for: UDP to an address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
}

/// Makes conntrack forget UDP to a port of the addresses that `wrong` picks, so that the next datagram is looked at
/// anew. Returns how many entries that were.
///
/// # Errors
/// As the kernel says, one without ctnetlink too.
pub fn forget_udp(ipv4: bool, port: u16, wrong: impl Fn(IpAddr) -> bool) -> io::Result<usize> {
    let family = if ipv4 { nix::libc::AF_INET } else { nix::libc::AF_INET6 } as u8;
    let netfilter = Netfilter::open()?;
    let mut request = Messages::default();
    request.begin(GET_ENTRIES, REQUEST | DUMP, family, 0);
    request.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple.nested(2, |protocol| {
            protocol.attribute(1, &[UDP]);
            protocol.attribute(3, &port.to_be_bytes());
        });
    });
    request.nested(CTA_FILTER, |filter| {
        filter.attribute(ORIG_FLAGS, &BY_PROTOCOL_AND_DESTINATION_PORT.to_ne_bytes());
    });
    let mut entries = Vec::new();
    netfilter.ask(&request, usize::MAX, |kind, entry| {
        // A kernel that does not know the filter tells all.
        let to = find(entry, CTA_TUPLE_ORIG).and_then(udp_destination);
        if kind == ENTRY && to.is_some_and(|to| to.port == port && wrong(to.address)) {
            entries.push(entry.to_vec());
        }
    })?;
    for entry in &entries {
        let mut request = Messages::default();
        request.begin(DELETE_ENTRY, REQUEST | ACK, family, 0);
        for kind in [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE] {
            if let Some(value) = find(entry, kind) {
                request.attribute(if kind == CTA_TUPLE_ORIG { kind | NESTED } else { kind }, value);
            }
        }
        match netfilter.ask(&request, 1, |_, _| {}) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            result => result?,
        }
    }
    Ok(entries.len())
}

/// Where the tuple of an entry leads; none of another protocol.
fn udp_destination(tuple: &[u8]) -> Option<Destination> {
    let (ip, protocol) = (find(tuple, 1)?, find(tuple, 2)?);
    if find(protocol, 1)? != [UDP] {
        return None;
    }
    let port = u16::from_be_bytes(*find(protocol, 3)?.first_chunk()?);
    let v4 =
        find(ip, 2).and_then(|bytes| bytes.first_chunk::<4>()).map(|bytes| Ipv4Addr::from(*bytes).into());
    let v6 =
        || find(ip, 4).and_then(|bytes| bytes.first_chunk::<16>()).map(|bytes| Ipv6Addr::from(*bytes).into());
    Some(Destination { address: v4.or_else(v6)?, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written_and_never_beyond_the_end() {
        let mut messages = Messages::default();
        messages.begin(ENTRY, 0, 2, 0);
        messages.nested(CTA_TUPLE_ORIG, |tuple| {
            tuple.nested(1, |ip| {
                ip.attribute(1, &[10, 0, 0, 1]);
                ip.attribute(2, &[10, 0, 0, 2]);
            });
            tuple.nested(2, |protocol| {
                protocol.attribute(1, &[UDP]);
                protocol.attribute(2, &[1, 2]);
                protocol.attribute(3, &[0, 53]);
            });
        });
        assert_eq!(messages.bytes.len(), u32::from_ne_bytes(*messages.bytes.first_chunk().unwrap()) as usize);
        let body = &messages.bytes[HEADER + GENERAL..];
        let tuple = find(body, CTA_TUPLE_ORIG).unwrap();
        let wanted = Destination { address: "10.0.0.2".parse().unwrap(), port: 53 };
        assert_eq!(udp_destination(tuple), Some(wanted));
        for length in 0..tuple.len() {
            let _ = udp_destination(&tuple[..length]);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_left(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = udp_destination(&bytes);
            proptest::prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
