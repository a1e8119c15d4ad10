//! A forwarded port: the connection into the pod's network namespace, and how many of them a pod may have.
//!
//! Users drive this, as many at once as they like and to ports that never answer. So no thread waits for a port: only
//! the socket is made inside of the namespace, by a thread of its own kind, and the connecting itself blocks nobody.
//! Threads for container work (tokio's blocking ones) are never used here.
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use node_kit::lock;
use streams::Duplex;

/// The most forwarded connections of one pod sandbox at once.
pub const PER_SANDBOX: usize = 256;
/// The most threads that make sockets in pods' namespaces at once; each lives for microseconds.
const SOCKET_THREADS: usize = 2;
/// How long a port may take to accept, for each of IPv4 and IPv6.
const ACCEPT: Duration = Duration::from_secs(10);

/// The pod sandbox has as many forwarded connections as it may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pod sandbox {0} has {PER_SANDBOX} forwarded connections open already, which is the most; close some of them"
)]
pub struct Full(String);

/// The forwarded connections of all pods.
#[derive(Debug)]
pub struct Forwards {
    open: Arc<Mutex<BTreeMap<String, usize>>>,
    threads: Arc<Semaphore>,
}

/// One forwarded connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    sandbox: String,
    open: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        match open.get_mut(&self.sandbox) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.sandbox)),
        }
    }
}

impl Default for Forwards {
    fn default() -> Self {
        Self { open: Arc::default(), threads: Arc::new(Semaphore::new(SOCKET_THREADS)) }
    }
}

impl Forwards {
    /// Takes a place for one more connection into a pod sandbox.
    ///
    /// # Errors
    /// When the sandbox has as many as it may have.
    pub fn place(&self, sandbox: &str) -> Result<Place, Full> {
        let mut open = lock(&self.open);
        let count = open.entry(sandbox.to_owned()).or_default();
        if *count >= PER_SANDBOX {
            return Err(Full(sandbox.to_owned()));
        }
        *count += 1;
        Ok(Place { sandbox: sandbox.to_owned(), open: Arc::clone(&self.open) })
    }

    /// A connection to the loopback of the network namespace at `netns` (the node's own without one), IPv4 first.
    ///
    /// # Errors
    /// As setns(2) and connect(2), for IPv4; `TimedOut` when the port does not accept.
    pub async fn connect(&self, netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
        let first = match self.reach(netns, Ipv4Addr::LOCALHOST.into(), port).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        self.reach(netns, Ipv6Addr::LOCALHOST.into(), port).await.map_err(|_| first)
    }

    async fn reach(&self, netns: Option<&Path>, ip: IpAddr, port: u16) -> io::Result<TcpStream> {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = match netns {
            Some(netns) => self.socket_in(netns, family).await?,
            None => make(family)?,
        };
        let socket = TcpSocket::from_std_stream(made.into());
        let connecting = socket.connect(SocketAddr::new(ip, port));
        tokio::time::timeout(ACCEPT, connecting).await.unwrap_or_else(|_| {
            let why = format!("the port did not accept within {} s", ACCEPT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }

    /// A socket stays in the namespace where it was made. A thread whose namespace was changed must not do anything
    /// else, so it ends with the work.
    async fn socket_in(&self, netns: &Path, family: AddressFamily) -> io::Result<OwnedFd> {
        let place = Arc::clone(&self.threads).acquire_owned().await.map_err(io::Error::other)?;
        let (sender, made) = oneshot::channel();
        let netns = netns.to_owned();
        let work = move || {
            let made = File::open(&netns).and_then(|namespace| {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                make(family)
            });
            drop(place);
            let _ = sender.send(made);
        };
        std::thread::Builder::new().name("forward".into()).stack_size(128 << 10).spawn(work)?;
        made.await.map_err(io::Error::other)?
    }
}

fn make(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Stream, flags, None)?)
}

/// Copies both ways until both ends have closed. A program that resets its connection has ended it, as many do after
/// their answer: that is no fault of the forwarding, and must not cost the client its other connections.
///
/// # Errors
/// As read(2) and write(2).
pub async fn copy(client: Box<dyn Duplex>, pod: TcpStream) -> io::Result<()> {
    let reset = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_pod, mut to_pod) = pod.into_split();
    let questions = async {
        match tokio::io::copy(&mut from_client, &mut to_pod).await {
            // What the program has said until then still goes to the client.
            Err(error) if reset(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => to_pod.shutdown().await.or_else(|error| match error.kind() {
                io::ErrorKind::NotConnected => Ok(()),
                _ => Err(error),
            }),
        }
    };
    let answers = async {
        tokio::io::copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    match tokio::try_join!(questions, answers) {
        Err(error) if reset(&error) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use futures::StreamExt;
    use nix::sys::socket::{Backlog, SockaddrIn, bind, connect, getsockname, listen};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_program_that_resets_its_connection_has_ended_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut program, _) = listener.accept().await.unwrap();
        let (ours, mut client) = tokio::io::duplex(4096);
        let forwarding = tokio::spawn(copy(Box::new(ours), pod));
        client.write_all(b"question").await.unwrap();
        program.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        // Closed with unread bytes, it is a reset.
        drop(program);
        drop(client);
        forwarding.await.unwrap().unwrap();
        assert_eq!(&answer, b"answer");
    }

    /// A listener whose queue is full drops what else asks for a connection: whoever asks waits.
    fn mute() -> (OwnedFd, Vec<OwnedFd>, u16) {
        let tcp = || make(AddressFamily::Inet).unwrap();
        let listener = tcp();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address: SockaddrIn = getsockname(listener.as_raw_fd()).unwrap();
        let filling = std::iter::repeat_with(tcp).take(8).collect::<Vec<_>>();
        for client in &filling {
            let _ = connect(client.as_raw_fd(), &address);
        }
        (listener, filling, address.port())
    }

    /// As the runtime's: one thread, and 8 for what blocks. Where sockets are made in a namespace there are fewer
    /// threads for it than forwards.
    #[test]
    fn forwards_to_a_mute_port_hold_up_no_container_work() {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(8)
            .build()
            .unwrap();
        tokio.block_on(async {
            let (_listener, _filling, port) = mute();
            let root = nix::unistd::geteuid().is_root();
            let netns = root.then(|| Path::new("/proc/self/ns/net"));
            let all = Forwards::default();
            let mut forwards: futures::stream::FuturesUnordered<_> =
                (0..16).map(|_| Box::pin(all.connect(netns, port))).collect();
            // All of them have begun.
            assert!(futures::poll!(forwards.next()).is_pending());
            let work = tokio::task::spawn_blocking(|| ());
            tokio::select! {
                biased;
                ended = forwards.next() => panic!("container work waited for a forward: {ended:?}"),
                done = work => done.unwrap(),
            }
            assert!(futures::poll!(forwards.next()).is_pending(), "none of them was refused");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_does_not_accept_is_given_up() {
        let (_listener, _filling, port) = mute();
        let error = Forwards::default().connect(None, port).await.unwrap_err();
        assert!(error.to_string().contains("did not accept within 10 s"), "{error}");
    }

    #[test]
    fn a_sandbox_has_so_many_forwards_and_no_more() {
        let all = Forwards::default();
        let mut places: Vec<_> = (0..PER_SANDBOX).map(|_| all.place("a").unwrap()).collect();
        let error = all.place("a").unwrap_err().to_string();
        assert!(error.contains("the pod sandbox a has 256 forwarded connections open already"), "{error}");
        drop(all.place("b").unwrap());
        places.pop();
        places.push(all.place("a").unwrap());
        drop(places);
        assert!(lock(&all.open).is_empty(), "what is closed is forgotten");
    }
}
