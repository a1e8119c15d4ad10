//! What init and `pintle-net` say to each other: frames of `sys::framed` on the socketpair that `pintle-net` has as descriptor 3.
//! Both ends are of one build. `pintle-net` is the one that reads packets of strangers, so init checks all it is told.
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::Ipv4Net;

/// The largest frame either side accepts, in bytes: a config of 1 MiB and its envelope.
pub const MAX_FRAME: usize = (1 << 20) + 4096;
/// The largest machine config that is fetched, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// From init to `pintle-net`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToNet {
    #[prost(oneof = "Command", tags = "1, 2, 3")]
    pub command: Option<Command>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Command {
    /// All that is wanted of now on; what is not in it ends.
    #[prost(message, tag = "1")]
    Want(Want),
    #[prost(message, tag = "2")]
    Fetch(Fetch),
    #[prost(message, tag = "3")]
    Join(Join),
}

/// What `pintle-net` shall keep doing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Want {
    #[prost(message, repeated, tag = "1")]
    pub dhcp: Vec<DhcpLink>,
    /// Names or addresses; empty: no time synchronisation.
    #[prost(string, repeated, tag = "2")]
    pub ntp_servers: Vec<String>,
}

/// A link that asks for an IPv4 lease; it is up and has a carrier.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DhcpLink {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Six bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub mac: Vec<u8>,
    /// What the server is told; empty: nothing.
    #[prost(string, tag = "3")]
    pub hostname: String,
}

/// Fetches one document.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fetch {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub url: String,
    /// PEM certificates to trust instead of the public authorities.
    #[prost(string, tag = "3")]
    pub ca: String,
    /// Attempts end this many milliseconds from now.
    #[prost(uint64, tag = "4")]
    pub deadline_ms: u64,
}

/// Has a serving certificate signed; answered as a fetch is, with the certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Join {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<Target>,
    /// The machine CA, PEM, which the signer must be of.
    #[prost(string, tag = "3")]
    pub ca: String,
    #[prost(string, tag = "4")]
    pub token: String,
    /// PKCS#10, DER.
    #[prost(bytes = "vec", tag = "5")]
    pub csr: Vec<u8>,
}

/// A control-plane machine.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Target {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// From `pintle-net` to init.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromNet {
    #[prost(oneof = "Report", tags = "1, 2, 3, 4")]
    pub report: Option<Report>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Report {
    #[prost(message, tag = "1")]
    Leased(WireLease),
    /// The name of a link whose lease has ended.
    #[prost(string, tag = "2")]
    Lost(String),
    #[prost(message, tag = "3")]
    Clock(Clock),
    #[prost(message, tag = "4")]
    Fetched(Fetched),
}

/// How far the clock is off, as a time server said.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Clock {
    /// Nanoseconds to add to the clock.
    #[prost(sint64, tag = "1")]
    pub offset: i64,
    #[prost(string, tag = "2")]
    pub server: String,
}

/// The end of a fetch or of a join: a body, or what went wrong.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fetched {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub body: Vec<u8>,
    #[prost(string, tag = "3")]
    pub error: String,
}

/// A lease in transit; [`Lease`] is the checked form.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireLease {
    #[prost(string, tag = "1")]
    pub link: String,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(string, repeated, tag = "3")]
    pub routers: Vec<String>,
    /// `destination gateway`, of classless static routes.
    #[prost(string, repeated, tag = "4")]
    pub routes: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub resolvers: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub search: Vec<String>,
    #[prost(string, tag = "7")]
    pub hostname: String,
    #[prost(uint32, tag = "8")]
    pub mtu: u32,
    #[prost(string, repeated, tag = "9")]
    pub ntp_servers: Vec<String>,
    /// Seconds.
    #[prost(uint32, tag = "10")]
    pub seconds: u32,
    #[prost(string, tag = "11")]
    pub server: String,
}

/// A DHCPv4 lease: what RFC 2131 and 2132 servers tell, in our terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub link: String,
    pub address: Ipv4Net,
    /// Option 3; not used when the server sent classless routes (RFC 3442).
    pub routers: Vec<Ipv4Addr>,
    /// Option 121; an unspecified gateway means that the destination is on the link.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    pub resolvers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub hostname: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    pub ntp_servers: Vec<IpAddr>,
    /// How long it holds, in seconds.
    pub seconds: u32,
    pub server: Ipv4Addr,
}

/// The most entries a list of a lease may have.
const MAX_LIST: usize = 64;

impl From<&Lease> for WireLease {
    fn from(lease: &Lease) -> Self {
        let text = |items: &[IpAddr]| items.iter().map(ToString::to_string).collect();
        Self {
            link: lease.link.clone(),
            address: lease.address.to_string(),
            routers: lease.routers.iter().map(ToString::to_string).collect(),
            routes: lease.routes.iter().map(|(to, via)| format!("{to} {via}")).collect(),
            resolvers: text(&lease.resolvers),
            search: lease.search.clone(),
            hostname: lease.hostname.clone().unwrap_or_default(),
            mtu: lease.mtu.unwrap_or_default(),
            ntp_servers: text(&lease.ntp_servers),
            seconds: lease.seconds,
            server: lease.server.to_string(),
        }
    }
}

impl TryFrom<&WireLease> for Lease {
    type Error = String;

    fn try_from(wire: &WireLease) -> Result<Self, String> {
        let routes = wire.routes.iter().take(MAX_LIST).map(|route| {
            let (to, via) = route.split_once(' ').ok_or_else(|| format!("route {route:?}"))?;
            Ok::<_, String>((one(to)?, one(via)?))
        });
        let address: Ipv4Net = one(&wire.address)?;
        if !usable(address.addr()) {
            return Err(format!("{address} cannot be a host's address"));
        }
        Ok(Self {
            link: wire.link.clone(),
            address,
            routers: list(&wire.routers)?,
            routes: routes.collect::<Result<_, _>>()?,
            resolvers: list(&wire.resolvers)?,
            search: wire.search.iter().filter(|name| is_dns_name(name)).take(6).cloned().collect(),
            hostname: Some(wire.hostname.clone()).filter(|name| is_dns_name(name)),
            // RFC 791's least MTU, below which IPv4 does not work, and the largest that Ethernet drivers take.
            mtu: Some(wire.mtu).filter(|mtu| (576..=65535).contains(mtu)),
            ntp_servers: list(&wire.ntp_servers)?,
            seconds: wire.seconds,
            server: one(&wire.server)?,
        })
    }
}

fn one<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no address"))
}

fn list<T: FromStr>(items: &[String]) -> Result<Vec<T>, String> {
    items.iter().take(MAX_LIST).map(|item| one(item)).collect()
}

/// Whether a host may have `address`.
pub fn usable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
}

/// Whether `name` is a DNS name of RFC 1123 (and so cannot smuggle anything into a file or a header).
pub fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_survives_the_journey() {
        let lease = Lease {
            link: "eth0".into(),
            address: "10.0.2.15/24".parse().unwrap(),
            routers: vec![[10, 0, 2, 2].into()],
            routes: vec![("192.0.2.0/24".parse().unwrap(), [10, 0, 2, 9].into())],
            resolvers: vec!["10.0.2.3".parse().unwrap()],
            search: vec!["example.org".into()],
            hostname: Some("node-1".into()),
            mtu: Some(1400),
            ntp_servers: vec!["10.0.2.4".parse().unwrap()],
            seconds: 3600,
            server: [10, 0, 2, 2].into(),
        };
        assert_eq!(Lease::try_from(&WireLease::from(&lease)).unwrap(), lease);
    }

    #[test]
    fn what_a_hostile_server_says_stays_outside() {
        let mut wire = WireLease {
            address: "10.0.2.15/24".into(),
            server: "10.0.2.2".into(),
            hostname: "a\nnameserver 6.6.6.6".into(),
            search: vec!["ok.example".into(), "x y".into()],
            mtu: 12,
            ..WireLease::default()
        };
        let lease = Lease::try_from(&wire).unwrap();
        assert_eq!((lease.hostname, lease.search, lease.mtu), (None, vec!["ok.example".to_owned()], None));
        wire.address = "255.255.255.255/32".into();
        assert!(Lease::try_from(&wire).is_err());
    }
}
