//! Which addresses a pull may connect to. A registry's answer says where its tokens and its blobs are, and an
//! image's name says where the registry is; whoever writes either must not reach through the node what only
//! the node reaches.
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;

use crate::pool::Pool;

/// Names that are looked up at once. The C library waits for name servers up to half a minute, so there are
/// some to spare.
const LOOK_UPS: usize = 16;

/// Why a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A `Registry` document names the host, as a registry or as a mirror.
    Configured,
    /// The image's name says so.
    Named,
    /// Another server says so, in a redirect or as its token service.
    Sent,
}

/// What an address is that is not connected to.
pub fn refused(address: IpAddr, trust: Trust, cluster: &[IpNet]) -> Option<&'static str> {
    if trust == Trust::Configured {
        return None;
    }
    let address = embedded(address);
    let local = match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some("a loopback address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an unspecified address"),
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some("no single host's address"),
        IpAddr::V6(v6) if v6.is_loopback() => Some("a loopback address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("an unspecified address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("no single host's address"),
        _ => None,
    };
    let inside = || {
        let cluster = cluster.iter().any(|range| range.contains(&address));
        (trust == Trust::Sent && cluster).then_some("an address of the cluster's pods or services")
    };
    local.or_else(inside)
}

/// The IPv4 address that an IPv6 address stands for: mapped, or by NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// What the host of an image's name is, where it can be seen without looking it up.
pub fn refused_name(host: &str) -> Option<&'static str> {
    if let Ok(address) = host.parse() {
        return refused(address, Trust::Named, &[]);
    }
    // RFC 6761 keeps the name and all below it for loopback.
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost").then_some("a name of loopback")
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// All addresses are refused; this is the last, and what it is.
    Refused(IpAddr, &'static str),
    Failed(io::Error),
}

/// Looks names up on threads of its own, and connects to what they lead to.
#[derive(Debug)]
pub struct Dialer {
    pool: Pool,
    /// Ranges of the cluster's pods and services.
    cluster: Vec<IpNet>,
}

impl Dialer {
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(cluster: Vec<IpNet>) -> io::Result<Self> {
        Ok(Self { pool: Pool::new("registry-names", LOOK_UPS)?, cluster })
    }

    /// Connects to the first address that may be and answers; what is judged is the very address that is
    /// connected to.
    pub async fn connect(&self, host: &str, port: u16, trust: Trust) -> Result<TcpStream, NoConnection> {
        let addresses = self.addresses(host, port).await.map_err(NoConnection::Failed)?;
        let (mut refusal, mut failure) = (None, None);
        for address in addresses {
            if let Some(what) = refused(address.ip(), trust, &self.cluster) {
                refusal = Some((address.ip(), what));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        match (failure, refusal) {
            (Some(error), _) => Err(NoConnection::Failed(error)),
            (None, Some((address, what))) => Err(NoConnection::Refused(address, what)),
            (None, None) => {
                let error = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
                Err(NoConnection::Failed(error))
            }
        }
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let host = host.to_owned();
        let look_up =
            move || std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port)).map(Iterator::collect);
        self.pool.run(look_up).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(address: &str, trust: Trust) -> Option<&'static str> {
        let cluster = ["10.96.0.0/16", "10.112.0.0/12", "fd00:96::/48"].map(|range| range.parse().unwrap());
        refused(address.parse().unwrap(), trust, &cluster)
    }

    #[test]
    fn nothing_reaches_the_node_itself_unless_the_config_says_so() {
        for address in [
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(what(address, Trust::Named).is_some(), "{address}");
            assert!(what(address, Trust::Sent).is_some(), "{address}");
            assert_eq!(what(address, Trust::Configured), None, "{address}");
        }
    }

    #[test]
    fn a_registry_in_the_cluster_is_pulled_from_by_its_name_and_sent_to_by_nobody() {
        for address in ["10.96.3.4", "10.112.0.10", "::ffff:10.96.3.4", "fd00:96::5"] {
            assert_eq!(what(address, Trust::Named), None, "{address}");
            assert_eq!(what(address, Trust::Sent), Some("an address of the cluster's pods or services"));
        }
        for address in
            ["192.0.2.1", "10.5.0.10", "192.168.1.1", "2001:db8::1", "fd00::1", "64:ff9b::c000:201"]
        {
            assert_eq!(what(address, Trust::Sent), None, "{address}");
        }
    }

    #[test]
    fn names_of_loopback_are_seen_without_looking_them_up() {
        for host in
            ["localhost", "LOCALHOST", "reg.localhost", "localhost.", "127.0.0.1", "::1", "169.254.1.1"]
        {
            assert!(refused_name(host).is_some(), "{host}");
        }
        for host in ["registry.example", "localhost.example", "10.0.2.2", "2001:db8::1"] {
            assert_eq!(refused_name(host), None, "{host}");
        }
    }
}
