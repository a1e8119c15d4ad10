//! Connecting to what probes and hooks name. Names are looked up by the C library, which waits for its
//! servers on a thread: these threads are probes' and hooks' own, few per pod, and counted until they end,
//! whoever has given up waiting.
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::net::TcpStream;

use super::address::join;
use crate::calls::{Calls, Hung};

/// Threads in look-ups for all pods.
const LOOK_UPS: usize = 64;
/// How long a look-up may take before the next one of its pod fails at once; resolv.conf's default for one
/// try.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("dial tcp {address}: {error}")]
    Connect { address: String, error: io::Error },
    #[error("dial tcp: {0}")]
    Hung(#[from] Hung),
}

impl DialError {
    /// Whether it says nothing about whom the connection was for.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Hung(Hung::Crowded { .. } | Hung::Thread { .. }))
    }
}

/// The pod that is probed, and how it finds others.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodAddress<'a> {
    pub(super) uid: &'a str,
    pub(super) ip: &'a str,
    pub(super) names: &'a Names,
}

/// The look-ups of all probes and hooks; clones share them.
#[derive(Debug, Clone)]
pub struct Names {
    calls: Calls,
    look_up: fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
}

impl Default for Names {
    fn default() -> Self {
        Self { calls: Calls::new(LOOK_UPS), look_up }
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

impl Names {
    /// Connects to a host by its address or its name, for a pod.
    pub(crate) async fn connect(&self, pod: &str, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let failed = |error| DialError::Connect { address: join(host, port), error };
        if let Ok(address) = host.parse::<IpAddr>() {
            return TcpStream::connect((address, port)).await.map_err(failed);
        }
        let (name, look_up) = (host.to_owned(), self.look_up);
        let what = format!("look up {host}");
        let found = self.calls.run(pod, what, LOOK_UP_WITHIN, move || look_up(&name, port)).await?;
        TcpStream::connect(&*found.map_err(failed)?).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as no server answers.
    fn hang(_: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        loop {
            std::thread::park();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_that_hang_are_counted_when_their_probes_have_given_up() {
        let names = Names { look_up: hang, ..Names::default() };
        let probe = async |pod: &'static str, host: &'static str| {
            tokio::time::timeout(Duration::from_secs(1), names.connect(pod, host, 80)).await
        };
        assert!(probe("sick", "a.invalid").await.is_err(), "given up by the probe");
        assert!(probe("sick", "b.invalid").await.is_err());
        tokio::time::sleep(LOOK_UP_WITHIN).await;
        for (host, said) in
            [("c.invalid", "not tried, as these hang"), ("a.invalid", "earlier try that hangs")]
        {
            let refused = probe("sick", host).await.expect("at once").unwrap_err();
            assert!(refused.to_string().contains(said) && !refused.is_ours(), "{refused}");
        }
        assert!(probe("well", "a.invalid").await.is_err(), "another pod's is tried");
        // An address is never looked up.
        tokio::time::resume();
        let address = names.connect("sick", "127.0.0.1", 1).await.unwrap_err().to_string();
        assert!(address.contains("dial tcp 127.0.0.1:1: "), "{address}");
    }
}
