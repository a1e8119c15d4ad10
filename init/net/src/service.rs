//! The main loop of `pintle-net`: does what init wants, reports what it finds.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::socket::{Empty, request::Call};
use node_kit::machine_socket::Stream;
use prost::Message;
use sys::framed::FramedSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::{dhcp, fetch, join, sntp};
use machine::net::{Command, DhcpLink, Fetch, Fetched, FromNet, Join, MAX_FRAME, Report, ToNet, Want};

/// The most links that ask for leases at once.
const MAX_LINKS: usize = 64;
/// Reports that may wait for init.
const MAX_REPORTS: usize = 64;

/// Serves init over `socket` until init closes it.
///
/// # Errors
/// When the socket breaks or a task panics; init then starts the process anew.
pub async fn run(socket: UnixStream) -> Result<()> {
    let mut socket = FramedSocket::new(socket, MAX_FRAME).context("set up the socket to init")?;
    // A process that hangs before this line is one that init shall know of.
    Stream::call("", Call::Ready(Empty {})).await.context("tell init that net is ready")?;
    let (reports, mut outgoing) = mpsc::channel(MAX_REPORTS);
    let mut work =
        Work { reports, tasks: JoinSet::new(), dhcp: BTreeMap::new(), hints: BTreeMap::new(), ntp: None };
    loop {
        tokio::select! {
            frame = socket.recv() => {
                let Some((frame, _)) = frame.context("read from init")? else { return Ok(()) };
                match ToNet::decode(&frame[..]).context("read what init says")?.command {
                    Some(Command::Want(want)) => work.want(want),
                    Some(Command::Fetch(fetch)) => work.fetch(fetch),
                    Some(Command::Join(join)) => work.join(join),
                    None => {}
                }
            }
            Some(report) = outgoing.recv() => {
                work.remember(&report);
                let frame = FromNet { report: Some(report) }.encode_to_vec();
                socket.send(&frame, &[]).await.context("report to init")?;
            }
            Some(ended) = work.tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    anyhow::bail!("a task panicked; starting over");
                }
            }
        }
    }
}

struct Work {
    reports: mpsc::Sender<Report>,
    tasks: JoinSet<()>,
    dhcp: BTreeMap<String, (DhcpLink, AbortHandle)>,
    /// The address each link had last, to ask for it again.
    hints: BTreeMap<String, Ipv4Addr>,
    ntp: Option<(Vec<String>, AbortHandle)>,
}

impl Work {
    /// Ends what is not wanted any more, then starts what is new. A link whose description changed starts anew.
    fn want(&mut self, want: Want) {
        self.dhcp.retain(|_, (link, task)| {
            let keep = want.dhcp.contains(link);
            if !keep {
                task.abort();
            }
            keep
        });
        for link in want.dhcp.into_iter().take(MAX_LINKS) {
            if !self.dhcp.contains_key(&link.name) {
                let hint = self.hints.get(&link.name).copied();
                let task = self.tasks.spawn(dhcp::client::run(link.clone(), hint, self.reports.clone()));
                self.dhcp.insert(link.name.clone(), (link, task));
            }
        }
        if self.ntp.as_ref().map_or(&[][..], |(servers, _)| servers) != want.ntp_servers {
            if let Some((_, task)) = self.ntp.take() {
                task.abort();
            }
            if !want.ntp_servers.is_empty() {
                let task = self.tasks.spawn(sntp::run(want.ntp_servers.clone(), self.reports.clone()));
                self.ntp = Some((want.ntp_servers, task));
            }
        }
    }

    fn fetch(&mut self, request: Fetch) {
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let within = Duration::from_millis(request.deadline_ms);
            let fetched = match fetch::fetch(&request.url, &request.ca, within).await {
                Ok(body) => Fetched { id: request.id, body, error: String::new() },
                Err(error) => Fetched { id: request.id, body: Vec::new(), error },
            };
            // A closed channel means that the process ends.
            let _ = reports.send(Report::Fetched(fetched)).await;
        });
    }

    fn join(&mut self, request: Join) {
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let fetched = match join::join(&request).await {
                Ok(certificate) => {
                    Fetched { id: request.id, body: certificate.into_bytes(), error: String::new() }
                }
                Err(error) => Fetched { id: request.id, body: Vec::new(), error },
            };
            let _ = reports.send(Report::Fetched(fetched)).await;
        });
    }

    fn remember(&mut self, report: &Report) {
        if let Report::Leased(lease) = report
            && let Some(address) = lease.address.split('/').next().and_then(|address| address.parse().ok())
            && self.dhcp.contains_key(&lease.link)
        {
            self.hints.insert(lease.link.clone(), address);
        }
    }
}
