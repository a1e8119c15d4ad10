//! init's end of `pintle-net`: what is wanted of it, what it found, and fetches. It outlives the process: a new one is told everything again.
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use sys::framed::FramedSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use machine::net::{
    Clock, Command, Fetch, FromNet, Join, Lease, MAX_CONFIG, MAX_FRAME, Report, Target, ToNet, Want,
};

/// How long after a fetch's own deadline `pintle-net` may still answer.
const GRACE: Duration = Duration::from_secs(5);
/// How many fetches and joins may wait at once.
const MAX_FETCHES: usize = 8;
/// The largest certificate that is taken, in bytes.
const MAX_CERTIFICATE: usize = 64 << 10;

/// The handle that the network controller, the config loader and the supervisor of `pintle-net` share.
#[derive(Debug, Clone)]
pub struct NetHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    want: watch::Sender<Want>,
    leases: watch::Sender<BTreeMap<String, Lease>>,
    clock: watch::Sender<Option<Clock>>,
    /// How often the clock was put right.
    corrections: watch::Sender<u64>,
    fetches: mpsc::Sender<Pending>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Pending>>,
    next_id: Mutex<u64>,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    question: Command,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

impl Default for NetHandle {
    fn default() -> Self {
        let (fetches, queue) = mpsc::channel(MAX_FETCHES);
        Self(Arc::new(Inner {
            want: watch::Sender::default(),
            leases: watch::Sender::default(),
            clock: watch::Sender::default(),
            corrections: watch::Sender::default(),
            fetches,
            queue: tokio::sync::Mutex::new(queue),
            next_id: Mutex::new(1),
        }))
    }
}

impl NetHandle {
    /// Speaks with one `pintle-net` process over `socket`, the other end of its descriptor 3, until that process ends.
    ///
    /// # Errors
    /// When the process says what it must not say; its supervisor should then kill it.
    pub async fn serve(&self, socket: UnixStream) -> std::io::Result<()> {
        let mut socket = FramedSocket::new(socket, MAX_FRAME)?;
        let mut want = self.0.want.subscribe();
        want.mark_changed();
        // One process at a time: the one before is gone when the supervisor starts the next.
        let mut queue = self.0.queue.lock().await;
        let mut waiting: BTreeMap<u64, Pending> = BTreeMap::new();
        loop {
            tokio::select! {
                frame = socket.recv() => {
                    let Some((frame, _)) = frame? else { break };
                    let report = FromNet::decode(&frame[..]).map_err(std::io::Error::other)?.report;
                    self.heed(report, &mut waiting);
                }
                changed = want.changed() => {
                    if changed.is_err() { break }
                    let command = Command::Want(want.borrow_and_update().clone());
                    send(&socket, command).await?;
                }
                Some(mut pending) = queue.recv(), if waiting.len() < MAX_FETCHES => {
                    waiting.retain(|_, pending| !pending.answer.is_closed());
                    if let Command::Fetch(fetch) = &mut pending.question {
                        let left = pending.deadline.saturating_duration_since(Instant::now());
                        fetch.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    }
                    send(&socket, pending.question.clone()).await?;
                    waiting.insert(pending.id, pending);
                }
            }
        }
        // Their owners see a closed channel and ask again, of the next process.
        drop(waiting);
        Ok(())
    }

    fn heed(&self, report: Option<Report>, waiting: &mut BTreeMap<u64, Pending>) {
        match report {
            Some(Report::Leased(wire)) => match Lease::try_from(&wire) {
                Ok(lease) => {
                    tracing::info!(link = lease.link, address = %lease.address, server = %lease.server, seconds = lease.seconds, "DHCP lease");
                    self.0.leases.send_if_modified(|leases| {
                        leases.insert(lease.link.clone(), lease.clone()).as_ref() != Some(&lease)
                    });
                }
                Err(error) => {
                    tracing::warn!(link = wire.link, error, "ignored a DHCP lease that makes no sense")
                }
            },
            Some(Report::Lost(link)) => {
                tracing::warn!(link, "the DHCP lease has ended");
                self.0.leases.send_if_modified(|leases| leases.remove(&link).is_some());
            }
            Some(Report::Clock(clock)) => {
                self.0.clock.send_replace(Some(clock));
            }
            Some(Report::Fetched(fetched)) => {
                if let Some(pending) = waiting.remove(&fetched.id) {
                    let result = if fetched.error.is_empty() && fetched.body.len() <= MAX_CONFIG {
                        Ok(fetched.body)
                    } else {
                        Err(fetched.error)
                    };
                    // Nobody waits for it any more: no harm done.
                    let _ = pending.answer.send(result);
                }
            }
            None => {}
        }
    }

    /// Fetches `url` (http or https), trying again until `deadline`. `ca`: PEM certificates to trust instead of the public authorities.
    ///
    /// # Errors
    /// The reason the last attempt failed for.
    pub async fn fetch_config(
        &self,
        url: &str,
        ca: Option<&str>,
        deadline: Duration,
    ) -> Result<Vec<u8>, String> {
        let fetch = |id| {
            Command::Fetch(Fetch { id, url: url.into(), ca: ca.unwrap_or_default().into(), deadline_ms: 0 })
        };
        self.ask(fetch, deadline).await.map_err(|error| format!("fetch {url}: {error}"))
    }

    /// Has a serving certificate (PEM) signed by one of `targets`, hosts and ports, which must show a certificate of `ca`. Nothing in the
    /// answer has been looked at on this side.
    ///
    /// # Errors
    /// What each of the targets failed for.
    pub async fn join(
        &self,
        targets: &[(String, u16)],
        ca: &str,
        token: &str,
        csr: &[u8],
        deadline: Duration,
    ) -> Result<String, String> {
        let target = |(host, port): &(String, u16)| Target { host: host.clone(), port: (*port).into() };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let join = |id| {
            let (targets, ca, token, csr) = (targets.clone(), ca.into(), token.into(), csr.into());
            Command::Join(Join { id, targets, ca, token, csr })
        };
        let answer = self.ask(join, deadline).await?;
        let plain = answer.iter().all(|byte| byte.is_ascii_graphic() || matches!(byte, b'\n' | b'\r' | b' '));
        match String::from_utf8(answer) {
            Ok(certificate) if plain && certificate.len() <= MAX_CERTIFICATE => Ok(certificate),
            _ => Err("what was sent is no PEM".into()),
        }
    }

    async fn ask(&self, question: impl Fn(u64) -> Command, deadline: Duration) -> Result<Vec<u8>, String> {
        let end = Instant::now() + deadline;
        let asked = tokio::time::timeout_at(end + GRACE, async {
            loop {
                let (answer, result) = oneshot::channel();
                let id = self.next_id();
                let pending = Pending { id, question: question(id), deadline: end, answer };
                if self.0.fetches.send(pending).await.is_err() {
                    return Err("no pintle-net".into());
                }
                // A closed channel: the process died with the request; ask the next one.
                if let Ok(result) = result.await {
                    return result;
                }
            }
        });
        let late = || format!("no answer within {} s; pintle-net may not be running", deadline.as_secs());
        asked.await.unwrap_or_else(|_| Err(late()))
    }

    fn next_id(&self) -> u64 {
        let mut next = self.0.next_id.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        *next
    }

    /// Sets what `pintle-net` shall keep doing.
    pub(super) fn want(&self, want: Want) {
        self.0.want.send_if_modified(|current| {
            let changed = *current != want;
            *current = want;
            changed
        });
    }

    /// The leases, by link.
    pub(super) fn leases(&self) -> watch::Receiver<BTreeMap<String, Lease>> {
        self.0.leases.subscribe()
    }

    /// Forgets leases of links that ask for none any more.
    pub(super) fn keep_leases(&self, keep: impl Fn(&str) -> bool) {
        self.0.leases.send_if_modified(|leases| {
            let before = leases.len();
            leases.retain(|link, _| keep(link));
            leases.len() != before
        });
    }

    /// Whether time servers are there to be asked.
    pub fn has_time_servers(&self) -> bool {
        !self.0.want.borrow().ntp_servers.is_empty()
    }

    /// How often the clock was put right by what a time server said.
    pub fn corrections(&self) -> watch::Receiver<u64> {
        self.0.corrections.subscribe()
    }

    /// Counts one.
    pub(super) fn corrected(&self) {
        self.0.corrections.send_modify(|count| *count += 1);
    }

    /// What time servers say about the clock, as it comes.
    pub fn clock(&self) -> watch::Receiver<Option<Clock>> {
        self.0.clock.subscribe()
    }
}

async fn send(socket: &FramedSocket, command: Command) -> std::io::Result<()> {
    let frame = ToNet { command: Some(command) }.encode_to_vec();
    // A process that does not read is as good as dead.
    tokio::time::timeout(Duration::from_secs(10), socket.send(&frame, &[])).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "pintle-net does not read"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::net::Fetched;

    async fn said(socket: &mut FramedSocket) -> Command {
        let (frame, _) = socket.recv().await.unwrap().unwrap();
        ToNet::decode(&frame[..]).unwrap().command.unwrap()
    }

    #[tokio::test]
    async fn a_fetch_survives_the_death_of_the_process() {
        let net = NetHandle::default();
        let asking = net.clone();
        let asked = tokio::spawn(async move {
            asking.fetch_config("http://192.0.2.1/c", None, Duration::from_secs(60)).await
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        let first = async {
            let mut theirs = FramedSocket::new(theirs, MAX_FRAME).unwrap();
            while !matches!(said(&mut theirs).await, Command::Fetch(_)) {}
        };
        let (served, ()) = tokio::join!(net.serve(ours), first);
        served.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let second = async {
            let mut theirs = FramedSocket::new(theirs, MAX_FRAME).unwrap();
            loop {
                if let Command::Fetch(fetch) = said(&mut theirs).await {
                    let fetched = Fetched { id: fetch.id, body: b"config".to_vec(), error: String::new() };
                    let frame = FromNet { report: Some(Report::Fetched(fetched)) }.encode_to_vec();
                    theirs.send(&frame, &[]).await.unwrap();
                    break;
                }
            }
        };
        let (served, ()) = tokio::join!(net.serve(ours), second);
        served.unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), b"config");
    }

    #[tokio::test]
    async fn a_new_process_is_told_what_is_wanted_and_its_leases_are_seen() {
        let net = NetHandle::default();
        net.want(Want { ntp_servers: vec!["192.0.2.4".into()], dhcp: vec![] });
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = async {
            let mut theirs = FramedSocket::new(theirs, MAX_FRAME).unwrap();
            let Command::Want(want) = said(&mut theirs).await else { panic!("no want") };
            assert_eq!(want.ntp_servers, ["192.0.2.4"]);
            let wire = machine::net::WireLease {
                link: "eth0".into(),
                address: "10.0.2.15/24".into(),
                server: "10.0.2.2".into(),
                ..Default::default()
            };
            let frame = FromNet { report: Some(Report::Leased(wire)) }.encode_to_vec();
            theirs.send(&frame, &[]).await.unwrap();
        };
        let (served, ()) = tokio::join!(net.serve(ours), process);
        served.unwrap();
        assert_eq!(net.leases().borrow()["eth0"].address.to_string(), "10.0.2.15/24");
    }
}
