//! Pods on the network of a CNI configuration, by the specification's version 1.1 (containernetworking/cni, SPEC.md; "section" in this folder means its
//! sections).
//!
//! A verb per file: [`add`](Cni::setup), [`delete`](Cni::teardown), [`check`](Cni::inspect), [`gc`](Cni::collect) and [`status`](Cni::ready). What is decided
//! is pure and beside them: [`config`], [`version`], [`request`], [`arguments`], [`result`]. [`run`] alone starts plugins, [`folder`] alone reads
//! configurations, [`record`] keeps what was done.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use node_kit::lock;
use tokio::time::Instant;

mod add;
mod arguments;
mod bandwidth;
mod check;
pub(crate) mod config;
mod delete;
mod error;
mod folder;
mod foreign;
mod gc;
mod node;
mod orphans;
pub(crate) mod record;
pub(crate) mod request;
pub(crate) mod result;
mod run;
mod status;
#[cfg(test)]
mod tests;
mod traffic;
pub(crate) mod version;

use config::{NetworkConfig, Plugin};
pub use error::{Error, Failure};
use record::{Attachment, Phase, Records};
pub use traffic::traffic;

/// The pod's interface; Kubernetes' plugins expect this name.
const INTERFACE: &str = "eth0";
/// How long one run of a plugin may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// Network configurations.
    pub config: PathBuf,
    /// Folders of plugins, in the order in which they are searched.
    pub plugins: Vec<PathBuf>,
    /// Our records, on a disk that survives a reboot.
    pub records: PathBuf,
}

impl Places {
    /// Those of Kubernetes' conventions, and records below `state`.
    pub fn conventional(state: &Path) -> Self {
        Self {
            config: machine::paths::CNI_CONFIG.into(),
            plugins: vec![machine::paths::CNI_PLUGINS.into()],
            records: state.join("cni"),
        }
    }
}

/// Pods that CNI plugins connect, and have connected.
#[derive(Debug)]
pub struct Cni {
    places: Places,
    deadline: Duration,
    records: Records,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    ranges: Mutex<Vec<IpNet>>,
    /// ADD, DEL and CHECK share it; GC has it alone (section 3, "Lifecycle & Ordering").
    gate: tokio::sync::RwLock<()>,
    /// The configuration whose plugins were ready, and when.
    ready: tokio::sync::Mutex<Option<(NetworkConfig, Instant)>>,
    collected: Mutex<Option<Instant>>,
}

/// One pod's attachment, whose lock is held by whoever runs plugins for it; none once it is deleted.
type Pod = tokio::sync::Mutex<Option<Attachment>>;

impl Cni {
    /// Reads the records back, and ends plugins that a former process has left running for what is half done.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn restore(places: Places) -> Result<Self, Error> {
        let failed = |error| Error::Io(format!("open CNI's records in {}", places.records.display()), error);
        let records = Records::open(&places.records).map_err(failed)?;
        let pods = records.load().map_err(failed)?;
        let half_done = pods.values().filter(|attachment| attachment.phase != Phase::Added);
        orphans::kill_left(
            Path::new("/proc"),
            &half_done.map(|a| a.container_id.clone()).collect::<BTreeSet<_>>(),
        );
        let ranges = Mutex::new(records.ranges());
        let pods = pods.into_iter().map(|(id, attachment)| (id, Arc::new(Pod::new(Some(attachment)))));
        Ok(Self {
            places,
            deadline: DEADLINE,
            records,
            pods: Mutex::new(pods.collect()),
            ranges,
            gate: tokio::sync::RwLock::default(),
            ready: tokio::sync::Mutex::default(),
            collected: Mutex::default(),
        })
    }

    /// Keeps the node's ranges for plugins that want to be given them, and has the kernel forward packets: plugins expect a node that does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn configure(&self, pod_cidrs: &[IpNet]) -> Result<(), Error> {
        self.records
            .set_ranges(pod_cidrs)
            .map_err(|error| Error::Io("record the node's ranges of pod addresses".into(), error))?;
        *lock(&self.ranges) = pod_cidrs.to_vec();
        node::prepare().await
    }

    /// Whether the pod is on record here.
    pub fn has(&self, container_id: &str) -> bool {
        lock(&self.pods).contains_key(container_id)
    }

    fn pod(&self, container_id: &str) -> Option<Arc<Pod>> {
        lock(&self.pods).get(container_id).cloned()
    }

    fn load(&self) -> Result<NetworkConfig, Error> {
        folder::load(&self.places.config)
    }

    /// Where a plugin's program lies.
    fn find(&self, network: &NetworkConfig, plugin: &Plugin) -> Result<PathBuf, Error> {
        use std::os::unix::fs::PermissionsExt;
        let executable = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let candidates = self.places.plugins.iter().map(|folder| folder.join(&plugin.program));
        candidates.into_iter().find(executable).ok_or_else(|| Error::NoPlugin {
            plugin: plugin.program.clone(),
            network: network.name.clone(),
            folders: self.path(),
        })
    }

    /// `CNI_PATH`.
    fn path(&self) -> String {
        let folders: Vec<_> = self.places.plugins.iter().map(|folder| folder.to_string_lossy()).collect();
        folders.join(":")
    }

    /// Runs a plugin for a pod.
    async fn run_for(
        &self,
        command: &'static str,
        attachment: &Attachment,
        plugin: &Plugin,
        input: &[u8],
    ) -> Result<Vec<u8>, Error> {
        // A namespace that is gone, as after a reboot, is told by an empty name.
        let netns = if attachment.netns.exists() { attachment.netns.to_string_lossy() } else { "".into() };
        let parameters = [
            ("CNI_CONTAINERID", attachment.container_id.clone()),
            ("CNI_NETNS", netns.into_owned()),
            ("CNI_IFNAME", attachment.interface.clone()),
            ("CNI_ARGS", attachment.arguments.clone()),
        ];
        self.run(command, &attachment.network, plugin, &parameters, input, self.deadline).await
    }

    async fn run(
        &self,
        command: &'static str,
        network: &NetworkConfig,
        plugin: &Plugin,
        parameters: &[(&str, String)],
        input: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, Error> {
        let program = self.find(network, plugin)?;
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let mut environment =
            vec![("PATH", path), ("CNI_COMMAND", command.into()), ("CNI_PATH", self.path())];
        environment.extend(parameters.iter().map(|(name, value)| (*name, value.clone())));
        run::run(&program, &environment, input, deadline)
            .await
            .map_err(|failure| failed(command, network, plugin, failure))
    }

    fn record(&self, attachment: &Attachment, lasting: bool) -> Result<(), Error> {
        self.records.put(attachment, lasting).map_err(|error| {
            Error::Io(format!("record what CNI plugins do for {}", attachment.container_id), error)
        })
    }
}

fn failed(command: &'static str, network: &NetworkConfig, plugin: &Plugin, failure: Failure) -> Error {
    Error::Plugin { plugin: plugin.program.clone(), network: network.name.clone(), command, failure }
}
