//! Asking others: HTTP, UDP and names.
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const TIMEOUT: Duration = Duration::from_secs(10);
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(2);
const DATAGRAM_TRIES: usize = 5;
/// The most that is read of an answer.
const MAX_ANSWER: u64 = 4 << 20;

/// The body of `http://host[:port]/path`, or the answer to the datagram `udp://host:port/text`.
pub fn fetch(url: &str) -> Result<String> {
    let Some((scheme, rest)) = url.split_once("://") else { bail!("{url} is no URL") };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        "http" => http(authority, path),
        "udp" => datagram(authority, path),
        _ => bail!("{scheme} is neither http nor udp"),
    }
}

/// Addresses of a name, one a line.
pub fn resolve(name: &str) -> Result<String> {
    let addresses = (name, 0).to_socket_addrs().with_context(|| format!("resolve {name}"))?;
    let mut addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses.iter().map(|address| format!("{address}\n")).collect())
}

fn addresses(authority: &str) -> Result<Vec<SocketAddr>> {
    let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    Ok(with_port.to_socket_addrs().with_context(|| format!("resolve {authority}"))?.collect())
}

fn http(authority: &str, path: &str) -> Result<String> {
    let addresses = addresses(authority)?;
    let address = addresses.first().with_context(|| format!("{authority} has no address"))?;
    let mut stream =
        TcpStream::connect_timeout(address, TIMEOUT).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .take(MAX_ANSWER)
        .read_to_string(&mut answer)
        .with_context(|| format!("read the answer of {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{address} answered {status}: {body}");
    Ok(body.to_owned())
}

fn datagram(authority: &str, text: &str) -> Result<String> {
    let addresses = addresses(authority)?;
    let address = addresses.first().with_context(|| format!("{authority} has no address"))?;
    let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).context("bind a UDP socket")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
    let mut buffer = [0; 2048];
    for _ in 0..DATAGRAM_TRIES {
        socket.send(text.as_bytes())?;
        if let Ok(length) = socket.recv(&mut buffer) {
            return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    bail!("no answer from {address} over UDP")
}
