//! Machine config: multi-document YAML, `apiVersion: pintle.dev/v1alpha1`, one Rust type and file per kind. Unknown fields are errors.
//! The JSON Schema and the reference page are generated from these types; `parse`, with the feature of that name, reports every fault with its line and column.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod address;
#[cfg(feature = "parse")]
mod check;
mod cluster;
mod dhcp;
mod endpoint;
mod fault;
mod install;
mod link;
mod machine;
mod manifest;
mod names;
mod node_agent;
#[cfg(feature = "parse")]
mod parse;
mod registry;
mod resolver;
mod route;
mod runtime;
mod schema;
mod static_pod;
mod sysctl;
mod time_sync;
#[cfg(feature = "parse")]
mod tree;
mod volume;
#[cfg(feature = "parse")]
mod walk;
mod watchdog;

pub use crate::authority::{CertificateAuthority, KeyPair};
pub use address::Address;
#[cfg(feature = "parse")]
pub use check::EVICTION_SIGNALS;
pub use cluster::{Cluster, Component, PodNetworkKind};
pub use dhcp::Dhcp;
pub use endpoint::host_and_port;
pub use fault::Fault;
pub use install::{DiskSelector, Install};
pub use link::{Link, LinkMatch};
pub use machine::{Machine, Role};
pub use manifest::Manifest;
pub use node_agent::{ImagePullCredentialsVerificationPolicy, NodeAgent, Taint};
#[cfg(feature = "parse")]
pub use parse::{parse, to_yaml};
pub use registry::{Registry, RegistryAuth};
pub use resolver::Resolver;
pub use route::Route;
pub use runtime::Runtime;
pub use schema::{KINDS, kind_schema, schema};
pub use static_pod::StaticPod;
pub use sysctl::Sysctl;
pub use time_sync::TimeSync;
pub use volume::Volume;
pub use watchdog::Watchdog;

/// The API version of every document.
pub const API_VERSION: &str = "pintle.dev/v1alpha1";

/// One document of a machine config.
#[expect(clippy::large_enum_variant, reason = "a config has a dozen documents, and none is kept for long")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
pub enum Document {
    Machine(Machine),
    Cluster(Cluster),
    Link(Link),
    Dhcp(Dhcp),
    Address(Address),
    Route(Route),
    Resolver(Resolver),
    TimeSync(TimeSync),
    Install(Install),
    Volume(Volume),
    Registry(Registry),
    Runtime(Runtime),
    NodeAgent(NodeAgent),
    StaticPod(StaticPod),
    Manifest(Manifest),
    Sysctl(Sysctl),
    Watchdog(Watchdog),
}

/// A whole machine config: what a node is told to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    pub machine: Machine,
    /// Absent on a machine that joins no cluster.
    pub cluster: Option<Cluster>,
    pub links: Vec<Link>,
    pub dhcp: Vec<Dhcp>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub resolver: Option<Resolver>,
    pub time_sync: Option<TimeSync>,
    pub install: Option<Install>,
    pub volumes: Vec<Volume>,
    pub registries: Vec<Registry>,
    pub runtime: Runtime,
    pub node_agent: NodeAgent,
    pub static_pods: Vec<StaticPod>,
    pub manifests: Vec<Manifest>,
    pub sysctls: Vec<Sysctl>,
    pub watchdog: Option<Watchdog>,
}
