//! The network controller: config, leases and the kernel's state in; one merged [`spec::Spec`] out, which only this task carries out.
//! It sleeps until one of its inputs changes.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use machine::config::MachineConfig;
use machine::socket::NetworkStatus;
use tokio::sync::watch;

pub mod config_url;
mod files;
mod helper;
mod kernel;
mod observed;
mod plan;
mod spec;
mod status;
pub mod time;

pub use helper::NetHandle;

use crate::node::{ActiveConfig, Machine};
use machine::net::{DhcpLink, Want};
use observed::Observed;
use spec::Spec;

/// How long after a refused step the controller looks again by itself.
const RETRY: Duration = Duration::from_secs(5);

/// The network of the running node: the controller, `pintle-net` and the clock.
///
/// # Errors
/// When netlink fails; the task starts again.
pub async fn follow(machine: Machine) -> anyhow::Result<()> {
    let net = machine.net.clone();
    let controller = run(
        machine.config.subscribe(),
        net.clone(),
        machine.network.clone(),
        PathBuf::from(machine::paths::RUN),
        true,
    );
    tokio::select! {
        ended = controller => ended.context("watch the network"),
        ended = serve(&machine) => ended,
        () = time::run(net) => Ok(()),
    }
}

/// Speaks with each `pintle-net` that the supervisor starts.
async fn serve(machine: &Machine) -> anyhow::Result<()> {
    let mut started = machine.supervisor.net_started();
    loop {
        started.borrow_and_update();
        if let Some(socket) = machine.supervisor.take_net_channel()
            && let Err(error) = machine.net.serve(socket).await
        {
            tracing::warn!(%error, "pintle-net");
        }
        started.changed().await.context("wait for pintle-net")?;
    }
}

/// Runs for ever; ends only when `config` is closed, or with an error when netlink itself fails (start it again then).
///
/// `run` is /run/pintle; `set_hostname` false leaves the kernel's host name alone (tests).
///
/// # Errors
/// When no netlink socket can be had.
pub async fn run(
    mut config: watch::Receiver<Option<Arc<ActiveConfig>>>,
    net: NetHandle,
    status: watch::Sender<NetworkStatus>,
    run: PathBuf,
    set_hostname: bool,
) -> std::io::Result<()> {
    sys::netns::raise_loopback()?;
    let (handle, mut changes) = kernel::connect()?;
    let mut leases = net.leases();
    let mut controller = Controller {
        handle,
        net,
        status,
        run,
        set_hostname,
        previous: Spec::default(),
        complaint: String::new(),
    };
    loop {
        // Without a config yet, every Ethernet link asks DHCP: the config may have to be fetched.
        let now = config.borrow_and_update().as_ref().map(|active| active.config.clone()).unwrap_or_default();
        let current_leases = leases.borrow_and_update().clone();
        let (settled, ours) = controller.reconcile(&now, &current_leases).await;
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return Ok(()) },
            changed = leases.changed() => if changed.is_err() { return Ok(()) },
            changed = kernel::changed(&mut changes, &ours) => changed?,
            () = tokio::time::sleep(RETRY), if !settled => {}
        }
    }
}

struct Controller {
    handle: rtnetlink::Handle,
    net: NetHandle,
    status: watch::Sender<NetworkStatus>,
    run: PathBuf,
    set_hostname: bool,
    /// What was set up last.
    previous: Spec,
    /// What was complained about last, said once.
    complaint: String,
}

impl Controller {
    /// One look: merge, apply, tell. Returns whether all is as it shall be, and the indices of our links.
    async fn reconcile(
        &mut self,
        config: &MachineConfig,
        leases: &std::collections::BTreeMap<String, machine::net::Lease>,
    ) -> (bool, BTreeSet<u32>) {
        let mut faults = Vec::new();
        let mut observed = match self.observe(config).await {
            Ok(observed) => observed,
            Err(error) => {
                self.complain(vec![format!("read the network from the kernel: {error}")]);
                return (false, BTreeSet::new());
            }
        };
        let spec = spec::merge(config, leases, &observed);
        let steps = plan::plan(&spec, &self.previous, &observed);
        for step in &steps {
            match kernel::apply(&self.handle, step).await {
                Ok(()) => tracing::info!("network: {step}"),
                Err(error) => faults.push(format!("{step}: {error}")),
            }
        }
        if !steps.is_empty()
            && let Ok(again) = self.observe(config).await
        {
            observed = again;
        }
        self.net.keep_leases(|link| spec.dhcp.contains(link));
        self.net.want(want(&spec, &observed));
        faults.extend(self.tell(config, &spec, &observed));
        let settled = faults.is_empty();
        self.complain(faults);
        let ours = observed.links.values().filter(|link| link.physical).map(|link| link.index).collect();
        // What could not be removed is kept in mind, to be tried again.
        if settled {
            self.previous = spec;
        } else {
            self.previous.addresses.extend(spec.addresses);
            self.previous.routes.extend(spec.routes);
        }
        (settled, ours)
    }

    async fn observe(&self, config: &MachineConfig) -> Result<Observed, rtnetlink::Error> {
        let documents = config
            .links
            .iter()
            .map(|d| &d.link)
            .chain(config.dhcp.iter().map(|d| &d.link))
            .chain(config.addresses.iter().map(|d| &d.link));
        let named: Vec<_> = documents.collect();
        let is_named = |name: &str, _mac: &str| named.iter().any(|link| link.name.as_deref() == Some(name));
        kernel::observe(&self.handle, &is_named).await
    }

    /// Host name, files and status.
    fn tell(&self, config: &MachineConfig, spec: &Spec, observed: &Observed) -> Vec<String> {
        let mut faults = Vec::new();
        let mut network = files::node_network(spec, observed, false);
        let waiting_for = status::waiting_for(config, spec, &network, observed);
        network.ready = waiting_for.is_none();
        if self.set_hostname
            && let Err(error) = nix::unistd::sethostname(&spec.hostname)
        {
            faults.push(format!("set the host name to {:?}: {error}", spec.hostname));
        }
        if let Err(error) = files::write(&self.run, spec, &network) {
            faults.push(format!("write the network's files below {}: {error}", self.run.display()));
        }
        let report = status::report(&network, observed, waiting_for);
        self.status.send_if_modified(|current| {
            let changed = *current != report;
            *current = report;
            changed
        });
        faults
    }

    fn complain(&mut self, faults: Vec<String>) {
        let complaint = faults.join("; ");
        if complaint != self.complaint && !complaint.is_empty() {
            tracing::warn!("network: {complaint}; trying again");
        }
        self.complaint = complaint;
    }
}

/// What `pintle-net` shall do: DHCP on links that are up and have a carrier (one that gets it back asks anew), and time.
fn want(spec: &Spec, observed: &Observed) -> Want {
    let dhcp = spec.dhcp.iter().filter_map(|name| observed.link(name)).filter(|link| link.up && link.carrier);
    let mac = |text: &str| text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Want {
        dhcp: dhcp
            .map(|link| DhcpLink { name: link.name.clone(), mac: mac(&link.mac), hostname: String::new() })
            .collect(),
        ntp_servers: spec.ntp_servers.iter().take(4).cloned().collect(),
    }
}
