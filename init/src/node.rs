//! What the tasks of the second stage share. Each field is a handle with one writer behind it.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use machine::socket::{Condition, NetworkStatus};
use tokio::sync::{mpsc, watch};

use crate::children::Children;
use crate::events::{Events, unix_ms};
use crate::fd_store::FdStore;
use crate::ledger::Ledger;
use crate::login1::{LONGEST_DELAY, Login1};
use crate::network::NetHandle;
pub use crate::reader::ActiveConfig;
use crate::reader::Reader;
use crate::services::{LogSink, SupervisorHandle};

/// The most conditions kept; reporters are few.
const CONDITIONS: usize = 64;

/// A request to end this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownRequest {
    pub reboot: bool,
    /// Pods are not waited for.
    pub force: bool,
    /// Who asked, and why.
    pub reason: String,
}

/// Handles to everything; cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    pub events: Events,
    pub ledger: Ledger,
    pub fds: FdStore,
    pub children: Children,
    pub logs: LogSink,
    pub supervisor: SupervisorHandle,
    /// Written by the config task and by apply; `None` while the machine waits for a config.
    pub config: watch::Sender<Option<Arc<ActiveConfig>>>,
    /// Reads what may become the active config.
    pub reader: Reader,
    /// Written by the network task.
    pub network: watch::Sender<NetworkStatus>,
    /// The net process: leases, time, fetches.
    pub net: NetHandle,
    pub login1: Login1,
    pub shutdown: mpsc::Sender<ShutdownRequest>,
    /// Counts changes of the devices; written by the device task.
    pub devices: watch::Sender<u64>,
    /// Held by the one config that is being applied.
    pub applying: Arc<tokio::sync::Mutex<()>>,
    conditions: Arc<Mutex<BTreeMap<String, Condition>>>,
}

impl Machine {
    /// Joins the handles.
    pub fn new(
        events: Events,
        ledger: Ledger,
        children: Children,
        logs: LogSink,
        supervisor: SupervisorHandle,
        shutdown: mpsc::Sender<ShutdownRequest>,
    ) -> Self {
        Self {
            events,
            ledger,
            fds: FdStore::default(),
            reader: Reader::new(children.clone()),
            children,
            logs,
            supervisor,
            config: watch::channel(None).0,
            network: watch::channel(NetworkStatus::default()).0,
            net: NetHandle::default(),
            login1: Login1::new(LONGEST_DELAY),
            shutdown,
            devices: watch::channel(0).0,
            applying: Arc::default(),
            conditions: Arc::default(),
        }
    }

    /// The active config, if there is one.
    pub fn active_config(&self) -> Option<Arc<ActiveConfig>> {
        self.config.borrow().clone()
    }

    /// Notes a condition; the time is that of the last change of `ok`.
    pub fn report(&self, reporter: &str, mut condition: Condition) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = conditions.get(&condition.name);
        if before.is_none() && conditions.len() >= CONDITIONS {
            return;
        }
        condition.since_unix_ms = match before {
            Some(before) if before.ok == condition.ok => before.since_unix_ms,
            _ => unix_ms(),
        };
        condition.reporter = reporter.into();
        conditions.insert(condition.name.clone(), condition);
    }

    /// Notes a condition of init's own.
    pub fn condition(&self, name: &str, ok: bool, reason: &str, message: &str) {
        let (name, reason, message) = (name.into(), reason.into(), message.into());
        self.report("init", Condition { name, ok, reason, message, ..Condition::default() });
    }

    /// Every condition: those reported, and one per service.
    pub fn conditions(&self) -> Vec<Condition> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let services = self.supervisor.services();
        let role = self.supervisor.facts().control_plane;
        let services = services.iter().filter(|s| s.name != "control-plane" || role).map(|s| Condition {
            name: format!("Service/{}", s.name),
            ok: s.state == "Ready",
            reason: s.state.clone(),
            message: s.reason.clone(),
            since_unix_ms: s.since_unix_ms,
            reporter: "init".into(),
        });
        conditions.values().cloned().chain(services).collect()
    }
}
