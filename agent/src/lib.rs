//! The node agent, in the kubelet's place: it watches pods (the API server's and static ones), decides per pod without IO, acts
//! through CRI, and reports node and pod status.
//!
//! | task | in | out |
//! |---|---|---|
//! | [`settings`] | machine config, network | watched snapshot |
//! | [`objects`] | ConfigMaps and Secrets that pods refer to | cache |
//! | [`pods`] | the pod tasks | watched snapshot of all pods |
//! | [`events`] | everyone | core/v1 Events |
//! | [`probe`] | running containers | changes of health |
//! | [`server`] | pods, CRI, reviews by the API server | port 10250 |
//! | [`routes`] | all Nodes, own addresses | routes to other nodes' pods |
//! | [`eviction`] | measurements, pressure stalls | pods to evict, pressure conditions |
//!
//! Called by the pod tasks, without tasks of their own: [`volumes`], [`env`], [`cgroup`], [`hooks`], [`stats`].
pub mod cgroup;
pub mod context;
pub mod cri;
pub mod env;
pub mod events;
pub mod eviction;
pub mod folder;
pub mod hooks;
pub mod objects;
pub mod pods;
pub mod probe;
pub mod routes;
pub mod server;
pub mod serving;
pub mod settings;
pub mod stats;
pub mod volumes;

pub use context::Context;

/// Runs the agent until it is told to end.
///
/// # Errors
/// When the settings cannot be read at start.
pub async fn run() -> anyhow::Result<()> {
    let settings = settings::follow()?;
    let node_name: std::sync::Arc<str> = settings.borrow().node_name().into();
    anyhow::ensure!(!node_name.is_empty(), "the machine has no host name yet; set Machine.hostname");
    anyhow::bail!("node {node_name}: pods are not run yet")
}
