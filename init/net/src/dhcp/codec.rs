//! Between packets and what they mean.
use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ipnet::Ipv4Net;

use machine::net::Lease;

/// What a server answered to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `None` for an answer without an address, mask or server identifier that we can use.
    Offer(Box<Terms>),
    Ack(Box<Terms>),
    Nak,
}

/// A lease and when to renew it, in seconds from its start (options 58 and 59).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub lease: Lease,
    pub renew: Option<u32>,
    pub rebind: Option<u32>,
}

/// Reads a packet; none when it is not a server's answer to `xid` and `mac`, or makes no sense.
pub fn read(packet: &[u8], link: &str, xid: u32, mac: [u8; 6]) -> Option<Reply> {
    let message = Message::decode(&mut Decoder::new(packet)).ok()?;
    // The codec's own accessor of the hardware address trusts its length.
    if message.opcode() != Opcode::BootReply || message.xid() != xid || message.hlen() != 6 {
        return None;
    }
    if message.chaddr() != mac {
        return None;
    }
    match message.opts().msg_type()? {
        MessageType::Offer => terms(&message, link).map(|terms| Reply::Offer(Box::new(terms))),
        MessageType::Ack => terms(&message, link).map(|terms| Reply::Ack(Box::new(terms))),
        MessageType::Nak => Some(Reply::Nak),
        _ => None,
    }
}

fn terms(message: &Message, link: &str) -> Option<Terms> {
    let options = message.opts();
    let mask = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => *mask,
        _ => Ipv4Addr::BROADCAST,
    };
    let server = match options.get(OptionCode::ServerIdentifier)? {
        DhcpOption::ServerIdentifier(server) => *server,
        _ => return None,
    };
    let address = Ipv4Net::with_netmask(message.yiaddr(), mask).ok()?;
    let ips = |code| match options.get(code) {
        Some(DhcpOption::Router(ips) | DhcpOption::DomainNameServer(ips) | DhcpOption::NtpServers(ips)) => {
            ips.clone()
        }
        _ => Vec::new(),
    };
    let number = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(n) | DhcpOption::Renewal(n) | DhcpOption::Rebinding(n)) => Some(*n),
        _ => None,
    };
    let text = |code| match options.get(code) {
        Some(DhcpOption::Hostname(text) | DhcpOption::DomainName(text)) => {
            Some(text.trim_end_matches(['\0', '.']).to_owned())
        }
        _ => None,
    };
    let addresses = |ips: Vec<Ipv4Addr>| ips.into_iter().map(IpAddr::V4).collect();
    let lease = Lease {
        link: link.to_owned(),
        address,
        routers: ips(OptionCode::Router),
        routes: match options.get(OptionCode::ClasslessStaticRoute) {
            Some(DhcpOption::ClasslessStaticRoute(routes)) => routes.clone(),
            _ => Vec::new(),
        },
        resolvers: addresses(ips(OptionCode::DomainNameServer)),
        search: text(OptionCode::DomainName)
            .into_iter()
            .flat_map(|names| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect(),
        hostname: text(OptionCode::Hostname),
        mtu: match options.get(OptionCode::InterfaceMtu) {
            Some(DhcpOption::InterfaceMtu(mtu)) => Some(u32::from(*mtu)),
            _ => None,
        },
        ntp_servers: addresses(ips(OptionCode::NtpServers)),
        seconds: number(OptionCode::AddressLeaseTime).unwrap_or(3600),
        server,
    };
    machine::net::usable(message.yiaddr()).then(|| Terms {
        lease,
        renew: number(OptionCode::Renewal),
        rebind: number(OptionCode::Rebinding),
    })
}

/// What the client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Who has an address? `hint`: one that we had.
    Discover { hint: Option<Ipv4Addr> },
    /// That offer, please.
    Request { address: Ipv4Addr, server: Ipv4Addr },
    /// The lease that we have, for longer.
    Renew { address: Ipv4Addr },
}

/// Writes a packet.
pub fn write(say: Say, xid: u32, mac: [u8; 6], seconds: u16, hostname: &str) -> Vec<u8> {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootRequest).set_xid(xid).set_secs(seconds).set_chaddr(&mac).clear_addrs();
    let kind = if matches!(say, Say::Discover { .. }) { MessageType::Discover } else { MessageType::Request };
    let options = [
        DhcpOption::MessageType(kind),
        DhcpOption::ClientIdentifier([&[1], &mac[..]].concat()),
        DhcpOption::MaxMessageSize(1500),
        DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            // Before the router: RFC 3442 wants it so.
            OptionCode::ClasslessStaticRoute,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::Hostname,
            OptionCode::DomainName,
            OptionCode::InterfaceMtu,
            OptionCode::NtpServers,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]),
    ];
    for option in options {
        message.opts_mut().insert(option);
    }
    if !hostname.is_empty() {
        message.opts_mut().insert(DhcpOption::Hostname(hostname.to_owned()));
    }
    match say {
        Say::Discover { hint } => {
            // The kernel drops unicasts to an address that it does not have yet.
            message.set_flags(Flags::default().set_broadcast());
            if let Some(hint) = hint {
                message.opts_mut().insert(DhcpOption::RequestedIpAddress(hint));
            }
        }
        Say::Request { address, server } => {
            message.set_flags(Flags::default().set_broadcast());
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
            message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        }
        Say::Renew { address } => {
            message.set_ciaddr(address);
        }
    }
    let mut packet = Vec::with_capacity(400);
    // Encoding into memory fails only for options that are too long, and ours are not.
    if message.encode(&mut Encoder::new(&mut packet)).is_err() {
        packet.clear();
    }
    // Relays and old servers drop packets below BOOTP's 300 bytes.
    packet.resize(packet.len().max(300), 0);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn answer(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootReply).set_xid(7).set_chaddr(&MAC).set_yiaddr([10, 0, 2, 15]);
        for option in [
            DhcpOption::MessageType(kind),
            DhcpOption::SubnetMask([255, 255, 255, 0].into()),
            DhcpOption::Router(vec![[10, 0, 2, 2].into()]),
            DhcpOption::DomainNameServer(vec![[10, 0, 2, 3].into()]),
            DhcpOption::DomainName("example.org.".into()),
            DhcpOption::AddressLeaseTime(86400),
            DhcpOption::ServerIdentifier([10, 0, 2, 2].into()),
            DhcpOption::ClasslessStaticRoute(vec![("192.0.2.0/24".parse().unwrap(), [10, 0, 2, 9].into())]),
        ] {
            message.opts_mut().insert(option);
        }
        message
    }

    fn bytes(message: &Message) -> Vec<u8> {
        let mut packet = Vec::new();
        message.encode(&mut Encoder::new(&mut packet)).unwrap();
        packet
    }

    #[test]
    fn an_offer_says_all_that_a_lease_has() {
        let Some(Reply::Offer(terms)) = read(&bytes(&answer(MessageType::Offer)), "eth0", 7, MAC) else {
            panic!("not read")
        };
        assert_eq!(terms.lease.address, "10.0.2.15/24".parse().unwrap());
        assert_eq!(terms.lease.search, ["example.org"]);
        assert_eq!(terms.lease.routes.len(), 1);
        assert_eq!(terms.lease.seconds, 86400);
    }

    #[test]
    fn answers_to_others_are_not_ours() {
        let packet = bytes(&answer(MessageType::Ack));
        assert_eq!(read(&packet, "eth0", 8, MAC), None);
        assert_eq!(read(&packet, "eth0", 7, [2; 6]), None);
        let request = write(Say::Discover { hint: None }, 7, MAC, 0, "");
        assert_eq!(read(&request, "eth0", 7, MAC), None);
    }

    #[test]
    fn a_hardware_address_longer_than_the_field_is_refused() {
        let mut packet = bytes(&answer(MessageType::Ack));
        packet[2] = 200;
        assert_eq!(read(&packet, "eth0", 7, MAC), None);
    }

    #[test]
    fn packets_have_bootp_size() {
        assert!(write(Say::Renew { address: [10, 0, 2, 15].into() }, 7, MAC, 0, "n1").len() >= 300);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(packet in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = read(&packet, "eth0", 7, MAC);
        }

        #[test]
        fn nor_do_broken_answers(at in 0_usize..300, byte: u8, cut in 0_usize..400) {
            let mut packet = bytes(&answer(MessageType::Ack));
            let length = packet.len();
            packet[at % length] = byte;
            packet.truncate(cut.max(1));
            if let Some(Reply::Ack(terms) | Reply::Offer(terms)) = read(&packet, "eth0", 7, MAC) {
                let wire = machine::net::WireLease::from(&terms.lease);
                let _ = Lease::try_from(&wire);
            }
        }
    }
}
