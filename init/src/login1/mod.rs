//! login1 for those who expect systemd's: a minimal system bus with `org.freedesktop.login1` on it, so that the agent — or a stock kubelet —
//! delays a shutdown until its pods have ended, and others can ask for a reboot.
//!
//! There is no bus daemon: each client has a peer-to-peer connection with zbus's object server at our end, which also answers as
//! `org.freedesktop.DBus`. Clients cannot reach one another.
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use node_kit::accept::{self, Seldom};
use node_kit::lock;
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use zbus::message::Message;

mod bus;
mod inhibitor;
mod manager;
#[cfg(test)]
mod tests;

use crate::node::{Machine, ShutdownRequest};
use crate::places::{Place, Places};
use inhibitor::Inhibitors;
pub use inhibitor::{Inhibitor, Mode};

/// The unique name that login1 has on the bus.
const UNIQUE_NAME: &str = ":1.0";
const LOGIN1: &str = "org.freedesktop.login1";
const LOGIN1_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// Clients of each service at once, and of all pods together.
const SHARE: usize = 16;
/// A client that does not introduce itself in this time is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What clients are told they may delay a shutdown by. Large, since a kubelet that wants more writes to /etc; how long a shutdown waits in fact
/// is said by the agent's own grace.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The bus of the running node.
///
/// # Errors
/// When the socket cannot be made.
pub async fn follow(machine: Machine) -> anyhow::Result<()> {
    let mut requests = machine.login1.0.power.subscribe();
    let serving = machine.login1.serve(Path::new(machine::paths::SYSTEM_BUS));
    let asking = async {
        while let Ok(request) = requests.recv().await {
            let reboot = request == PowerRequest::Reboot;
            let request = ShutdownRequest { reboot, force: false, reason: "asked through login1".into() };
            if machine.shutdown.send(request).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        ended = serving => ended.context("serve the system bus"),
        () = asking => Ok(()),
    }
}

/// What a client asked of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    Reboot,
    PowerOff,
}

/// How waiting for delay inhibitors ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Who still held one when the time was up, as `who (why)`; empty: all let go.
    pub blockers: Vec<String>,
}

/// The shared state, cheap to clone.
#[derive(Debug, Clone)]
pub struct Login1(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inhibitors: Mutex<Inhibitors>,
    /// Counts changes of the inhibitors.
    changes: watch::Sender<u64>,
    preparing: watch::Sender<bool>,
    max_delay: Duration,
    clients: Mutex<BTreeMap<u64, zbus::Connection>>,
    places: Arc<Places>,
    power: broadcast::Sender<PowerRequest>,
}

impl Login1 {
    /// `max_delay` is what clients are told they may delay a shutdown by (`InhibitDelayMaxUSec`).
    pub fn new(max_delay: Duration) -> Self {
        Self(Arc::new(Inner {
            inhibitors: Mutex::default(),
            changes: watch::Sender::default(),
            preparing: watch::Sender::default(),
            max_delay,
            clients: Mutex::default(),
            places: Places::new(SHARE),
            power: broadcast::Sender::new(4),
        }))
    }

    /// Listens at `path` (`machine::paths::SYSTEM_BUS`) and serves clients for ever: root in the services' cgroups, and privileged pods.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(&self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let (mut next, seldom) = (0_u64, Seldom::new());
        loop {
            let stream = accept::unix(&listener).await;
            match self.admit(&stream) {
                Ok((peer, place)) => {
                    next += 1;
                    let (login1, number) = (self.clone(), next);
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = login1.client(stream, peer, number).await {
                            tracing::debug!(%error, "D-Bus client");
                        }
                    });
                }
                Err(turned_away) if seldom.may_say() => {
                    tracing::warn!("D-Bus client turned away: {turned_away}");
                }
                Err(_) => {}
            }
        }
    }

    /// Who the client is, and its place among those of its kind.
    fn admit(&self, stream: &tokio::net::UnixStream) -> std::io::Result<(inhibitor::Peer, Place)> {
        let peer = sys::peer::Peer::of(stream)?;
        let cgroup = peer.admit(&machine::paths::NODE_CGROUPS)?;
        let who = origin(cgroup.as_deref());
        let place = self.0.places.take(&who).ok_or_else(|| {
            std::io::Error::other(format!("{SHARE} clients of {who} are connected already"))
        })?;
        Ok((inhibitor::Peer { uid: peer.uid(), pid: u32::try_from(peer.pid()).unwrap_or(0) }, place))
    }

    /// Serves one client until it hangs up.
    async fn client(
        &self,
        stream: tokio::net::UnixStream,
        peer: inhibitor::Peer,
        number: u64,
    ) -> zbus::Result<()> {
        let bus = bus::Bus::new(format!(":1.{number}"));
        let manager = manager::Manager::new(self.clone(), peer);
        let guid = zbus::Guid::generate();
        let building = zbus::connection::Builder::unix_stream(stream.into_std()?)
            .server(guid)
            .p2p()
            .serve_at("/org/freedesktop/DBus", bus)
            .serve_at(LOGIN1_PATH, manager)
            .serve_at("/org/freedesktop/systemd1", manager::Systemd);
        let connection = tokio::time::timeout(HANDSHAKE, building.build())
            .await
            .map_err(|_| zbus::Error::Failure("no handshake within 10 s".into()))??;
        lock(&self.0.clients).insert(number, connection.clone());
        connection.closed().await;
        lock(&self.0.clients).remove(&number);
        Ok(())
    }

    /// Those who hold an inhibitor now.
    pub fn inhibitors(&self) -> Vec<Inhibitor> {
        lock(&self.0.inhibitors).list()
    }

    /// Tells all clients that the machine goes down and how (`PrepareForShutdownWithMetadata`, `PrepareForShutdown(true)`), and waits until
    /// every delay inhibitor of "shutdown" is released, for `max` at most.
    pub async fn prepare_for_shutdown(&self, power: PowerRequest, max: Duration) -> Released {
        self.0.preparing.send_replace(true);
        let mut changes = self.0.changes.subscribe();
        self.announce(true, power).await;
        let deadline = Instant::now() + max;
        loop {
            let blockers = lock(&self.0.inhibitors).delaying("shutdown");
            if blockers.is_empty() {
                return Released { blockers };
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return Released { blockers: lock(&self.0.inhibitors).delaying("shutdown") };
            }
        }
    }

    /// Tells all clients that the machine stays up after all (`PrepareForShutdown(false)`).
    pub async fn shutdown_cancelled(&self) {
        self.0.preparing.send_replace(false);
        self.announce(false, PowerRequest::Reboot).await;
    }

    async fn announce(&self, start: bool, power: PowerRequest) {
        let kind = match power {
            PowerRequest::Reboot => "reboot",
            PowerRequest::PowerOff => "power-off",
        };
        let metadata = BTreeMap::from([("type", zbus::Variant::from(kind))]);
        let clients: Vec<_> = lock(&self.0.clients).values().cloned().collect();
        for client in clients {
            let sent = async {
                let signal = |name| Message::signal(LOGIN1_PATH, MANAGER, name).sender(UNIQUE_NAME);
                let detailed = signal("PrepareForShutdownWithMetadata").build(&(start, &metadata))?;
                client.send(&detailed).await?;
                client.send(&signal("PrepareForShutdown").build(&start)?).await
            };
            // A client that does not read must not hold up a shutdown.
            match tokio::time::timeout(Duration::from_secs(1), sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "tell a D-Bus client of the shutdown"),
                Err(_) => tracing::warn!("a D-Bus client does not read its messages"),
            }
        }
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }
}

/// A service by its cgroup, wherever below it the client is; all others are one.
fn origin(cgroup: Option<&str>) -> String {
    match cgroup {
        Some(cgroup) => cgroup.split('/').take(3).collect::<Vec<_>>().join("/"),
        None => "pods".into(),
    }
}
