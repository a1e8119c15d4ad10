//! How pods are connected: by the built-in bridge ([`builtin`]), or by the plugins of a CNI configuration ([`cni`]), as `Cluster.podNetwork` says.
//!
//! The choice is for pods that are made from now on. Pods that the other kind connected stay connected and are taken down by what connected them, so
//! every verb but [`PodNetwork::setup`], [`PodNetwork::configure`] and [`PodNetwork::ready`] asks both.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use machine::config::PodNetworkKind;
use serde::{Deserialize, Serialize};

mod builtin;
mod cni;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod traffic;

use builtin::Builtin;
use cni::Cni;
pub use cni::Places;
pub use traffic::Traffic;

/// What can go wrong; each names what was tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Builtin(#[from] builtin::Error),
    #[error(transparent)]
    Cni(#[from] cni::Error),
    #[error("{0}: {1}")]
    Namespace(String, #[source] io::Error),
}

/// Transport protocol of a host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The name that nftables and CNI have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the node that leads to a pod. Mappings with `host_port` 0 are not for us; leave them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Only this address of the node; none or an unspecified one: every address.
    pub host_ip: Option<IpAddr>,
}

/// What a pod's resolv.conf is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A pod to connect. The built-in network needs the first three fields only.
#[derive(Debug, Clone, Default)]
pub struct PodRequest {
    pub sandbox_id: String,
    /// Where its network namespace is pinned.
    pub netns: PathBuf,
    pub ports: Vec<PortMapping>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub annotations: BTreeMap<String, String>,
    pub dns: Dns,
    /// The pod's cgroup below the root of cgroup2.
    pub cgroup: String,
}

/// What a pod was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddresses {
    /// The first is the pod's IP.
    pub ips: Vec<IpAddr>,
}

/// The pod network of this node.
#[derive(Debug)]
pub struct PodNetwork {
    kind: PodNetworkKind,
    builtin: Builtin,
    cni: Arc<Cni>,
}

impl PodNetwork {
    /// Opens the network. The built-in network's records lie below `volatile` (on a tmpfs, such as `/run/pintle/runtime/network`); those of CNI as
    /// `places` says. Pods that a former process connected stay as they are. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When the records cannot be read or no netlink socket can be had.
    pub fn restore(kind: PodNetworkKind, volatile: &Path, places: Places) -> Result<Self, Error> {
        Ok(Self { kind, builtin: Builtin::restore(volatile)?, cni: Arc::new(Cni::restore(places)?) })
    }

    /// Whether a former life of this process was told the node's ranges of pod addresses.
    pub fn has_ranges(&self) -> bool {
        self.builtin.has_ranges()
    }

    /// Whether pods are connected by programs that may take long, or wait for what is a pod itself.
    pub fn is_cni(&self) -> bool {
        self.kind == PodNetworkKind::Cni
    }

    /// Sets the node's own ranges (`pod_cidrs`, of CRI's UpdateRuntimeConfig) and the whole cluster's (`cluster_cidrs`). May be called again at any time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn configure(&self, pod_cidrs: &[IpNet], cluster_cidrs: &[IpNet]) -> Result<(), Error> {
        match self.kind {
            PodNetworkKind::Builtin => Ok(self.builtin.configure(pod_cidrs, cluster_cidrs).await?),
            PodNetworkKind::Cni => Ok(self.cni.configure(pod_cidrs).await?),
        }
    }

    /// Takes up the node's own ranges as they were told to a former life of this process, if they were: whoever told them need not know that it ended. Otherwise
    /// makes what needs no range.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn resume(&self, cluster_cidrs: &[IpNet]) -> Result<(), Error> {
        match self.kind {
            PodNetworkKind::Builtin => Ok(self.builtin.resume(cluster_cidrs).await?),
            // It reads them back with its records.
            PodNetworkKind::Cni => Ok(()),
        }
    }

    /// Whether pods can be connected: what CRI's Status reports as NetworkReady.
    ///
    /// # Errors
    /// The reason why not.
    pub async fn ready(&self) -> Result<(), Error> {
        match self.kind {
            PodNetworkKind::Builtin => Ok(self.builtin.ready().await?),
            PodNetworkKind::Cni => Ok(self.cni.ready().await?),
        }
    }

    /// Connects a pod. When it fails nothing stays behind, or what does is on record for [`PodNetwork::teardown`].
    ///
    /// # Errors
    /// Names what could not be had, and from whom.
    pub async fn setup(&self, pod: &PodRequest) -> Result<PodAddresses, Error> {
        match self.kind {
            PodNetworkKind::Builtin => Ok(self.builtin.setup(pod).await?),
            PodNetworkKind::Cni => Ok(self.cni.setup(pod).await?),
        }
    }

    /// Disconnects a pod and frees what it had. A pod that is not known is no error.
    ///
    /// # Errors
    /// What could not be undone; a further call tries again.
    pub async fn teardown(&self, sandbox_id: &str) -> Result<(), Error> {
        self.cni.teardown(sandbox_id).await?;
        Ok(self.builtin.teardown(sandbox_id).await?)
    }

    /// Disconnects every pod that is not in `live`. What CNI plugins have to do for it goes on after the call.
    ///
    /// # Errors
    /// The first of the kernel's refusals; the rest is tried all the same.
    pub async fn collect(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        self.cni.collect(live, self.is_cni());
        Ok(self.builtin.collect(live).await?)
    }

    /// What went over a pod's link; none of a pod that has none. `netns` is where its namespace is pinned.
    pub async fn traffic(&self, sandbox_id: &str, netns: &Path) -> Option<Traffic> {
        if self.cni.has(sandbox_id) {
            return cni::traffic(netns).await;
        }
        self.builtin.traffic(sandbox_id)
    }

    /// What CNI knows of a pod and what its plugins say to CHECK, as JSON for people; none of a pod that CNI has not connected.
    pub async fn inspect(&self, sandbox_id: &str) -> Option<serde_json::Value> {
        self.cni.inspect(sandbox_id).await
    }

    /// Makes a network namespace with its loopback up and pins it at `path`.
    ///
    /// # Errors
    /// When something is at `path` already, or the kernel refuses.
    pub async fn create_netns(&self, path: &Path) -> Result<(), Error> {
        let what = format!("make the network namespace {}", path.display());
        let path = path.to_owned();
        blocking(what, move || sys::netns::create(&path)).await
    }

    /// Unpins the network namespace at `path`; none there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_netns(&self, path: &Path) -> Result<(), Error> {
        let what = format!("remove the network namespace {}", path.display());
        let path = path.to_owned();
        blocking(what, move || sys::netns::remove(&path)).await
    }
}

async fn blocking(what: String, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Namespace(what, error)),
        Err(error) => Err(Error::Namespace(what, io::Error::other(error))),
    }
}
