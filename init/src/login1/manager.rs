//! `org.freedesktop.login1.Manager`, and the one call of systemd that a stock kubelet makes.
use std::os::fd::OwnedFd;

use zbus::fdo::{Error, Result};
use zbus::interface;

use super::inhibitor::{Mode, Peer};
use super::{Login1, PowerRequest, lock};

/// login1 as one client sees it.
#[derive(Debug)]
pub struct Manager {
    login1: Login1,
    peer: Peer,
}

impl Manager {
    pub const fn new(login1: Login1, peer: Peer) -> Self {
        Self { login1, peer }
    }

    fn root_only(&self, what: &str) -> Result<()> {
        if self.peer.uid == 0 { Ok(()) } else { Err(Error::AccessDenied(format!("{what} is for root only"))) }
    }

    fn power(&self, request: PowerRequest) -> Result<()> {
        self.root_only("rebooting and powering off")?;
        tracing::info!(pid = self.peer.pid, ?request, "asked through login1");
        self.login1
            .0
            .power
            .send(request)
            .map(drop)
            .map_err(|_| Error::Failed("init takes no such request now".into()))
    }
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    /// The reply is a descriptor; closing all its copies releases the inhibitor.
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> Result<zbus::OwnedFd> {
        self.root_only("inhibiting")?;
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(|error| Error::IOError(error.to_string()))?;
        ours.set_nonblocking(true).map_err(|error| Error::IOError(error.to_string()))?;
        let ours =
            tokio::net::UnixStream::from_std(ours).map_err(|error| Error::IOError(error.to_string()))?;
        let key = lock(&self.login1.0.inhibitors)
            .take(what, who, why, mode, self.peer)
            .map_err(Error::InvalidArgs)?;
        self.login1.changed();
        tracing::info!(what, who, why, mode, "inhibitor taken");
        tokio::spawn(release_when_closed(self.login1.clone(), key, ours));
        Ok(OwnedFd::from(theirs).into())
    }

    fn list_inhibitors(&self) -> Vec<(String, String, String, String, u32, u32)> {
        let mode = |mode| match mode {
            Mode::Delay => "delay".to_owned(),
            Mode::Block => "block".to_owned(),
        };
        let list = self.login1.inhibitors();
        list.into_iter().map(|i| (i.what, i.who, i.why, mode(i.mode), i.uid, i.pid)).collect()
    }

    fn reboot(&self, _interactive: bool) -> Result<()> {
        self.power(PowerRequest::Reboot)
    }

    fn power_off(&self, _interactive: bool) -> Result<()> {
        self.power(PowerRequest::PowerOff)
    }

    fn reboot_with_flags(&self, _flags: u64) -> Result<()> {
        self.power(PowerRequest::Reboot)
    }

    fn power_off_with_flags(&self, _flags: u64) -> Result<()> {
        self.power(PowerRequest::PowerOff)
    }

    fn can_reboot(&self) -> &'static str {
        if self.peer.uid == 0 { "yes" } else { "no" }
    }

    fn can_power_off(&self) -> &'static str {
        self.can_reboot()
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        u64::try_from(self.login1.0.max_delay.as_micros()).unwrap_or(u64::MAX)
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        *self.login1.0.preparing.borrow()
    }

    #[zbus(property)]
    fn delay_inhibited(&self) -> String {
        lock(&self.login1.0.inhibitors).kinds(Mode::Delay)
    }

    #[zbus(property)]
    fn block_inhibited(&self) -> String {
        lock(&self.login1.0.inhibitors).kinds(Mode::Block)
    }

    /// For introspection; it is sent by hand, since it goes to every client.
    #[zbus(signal)]
    async fn prepare_for_shutdown(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        start: bool,
    ) -> zbus::Result<()>;

    /// The same with `type`: "reboot" or "power-off". It comes first, as systemd's does.
    #[zbus(signal)]
    async fn prepare_for_shutdown_with_metadata(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        start: bool,
        metadata: std::collections::HashMap<&str, zbus::Variant<'_>>,
    ) -> zbus::Result<()>;
}

/// Whatever is written into an inhibitor's descriptor is dropped; its end counts.
async fn release_when_closed(login1: Login1, key: u64, socket: tokio::net::UnixStream) {
    let mut scrap = [0; 64];
    loop {
        if socket.readable().await.is_err() {
            break;
        }
        match socket.try_read(&mut scrap) {
            Ok(0) => break,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    if let Some(released) = lock(&login1.0.inhibitors).release(key) {
        tracing::info!(what = released.what, who = released.who, "inhibitor released");
    }
    login1.changed();
}

/// `org.freedesktop.systemd1`: a kubelet tells logind to read its configuration again.
#[derive(Debug)]
pub struct Systemd;

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    /// Accepted for logind, whose limit is fixed here and large; nothing is killed.
    fn kill_unit(&self, name: &str, _whom: &str, _signal: i32) -> Result<()> {
        match name {
            "systemd-logind.service" => Ok(()),
            _ => Err(Error::Failed(format!("there is no unit {name}: init runs no units"))),
        }
    }
}
