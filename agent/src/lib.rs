//! The node agent, in the kubelet's place: it watches pods (the API server's and static ones), decides per pod without IO, acts
//! through CRI, and reports node and pod status.
//!
//! | task | in | out |
//! |---|---|---|
//! | [`settings`] | machine config, network | watched snapshot |
//! | [`objects`] | ConfigMaps and Secrets that pods refer to | cache |
//! | [`pods`] | the pod tasks | watched snapshot of all pods |
//! | [`events`], [`event_sender`] | everyone | core/v1 Events |
//! | [`credentials`] | bootstrap token, Cluster document | the API client, the serving certificate |
//! | [`sources`] | API server, manifests | watched sets of pods; mirror pods |
//! | [`manager`] | sources, probes, runtime events | one [`pod::worker`] per pod |
//! | [`pod`] | one pod | CRI calls, status, events |
//! | [`node`] | machine, runtime | Node, status, Lease, pod range |
//! | [`probe`] | running containers | changes of health |
//! | [`server`] | pods, CRI, reviews by the API server | port 10250 |
//! | [`routes`] | all Nodes, own addresses | routes to other nodes' pods |
//! | [`eviction`] | measurements, pressure stalls | pods to evict, pressure conditions |
//! | [`image_gc`] | images, their file system | removal of unused images |
//! | [`shutdown`] | login1 | pods to end or pause before the machine goes down |
//!
//! Called by the pod tasks, without tasks of their own: [`volumes`], [`env`], [`downward`], [`cgroup`], [`hooks`], [`stats`].
pub mod admission;
pub mod allocation;
pub mod api_handle;
pub mod api_source;
pub mod backoff;
mod calls;
pub mod cgroup;
pub mod clock;
pub mod context;
pub mod credentials;
pub mod cri;
pub mod dead_logs;
pub mod downward;
pub mod env;
pub mod errors;
pub mod event_sender;
pub mod events;
pub mod eviction;
pub mod hooks;
pub mod image_gc;
pub mod images;
pub mod log_rotation;
pub mod machine_socket;
pub mod manager;
pub mod node;
pub mod objects;
pub mod parts;
pub mod pod;
pub mod pods;
pub mod preemption;
pub mod probe;
pub mod routes;
pub mod server;
pub mod serving;
pub mod settings;
pub mod shared_file;
pub mod shutdown;
pub mod sources;
pub mod spec;
pub mod stats;
pub mod status_patch;
#[cfg(test)]
pub(crate) mod testing;
pub mod trust_bundles;
pub mod volumes;
pub mod watching;

pub use context::Context;

use std::sync::Arc;

use api_handle::ApiHandle;
use cri::Cri;
use events::Recorder;
use node_kit::tasks::essential;
use objects::Objects;
use parts::Parts;
use pods::PodStore;
use serving::ServingCertificate;
use tokio::sync::{mpsc, watch};

/// Runs the agent until it is told to end.
///
/// # Errors
/// When the settings cannot be read at start, or a folder cannot be watched.
pub async fn run() -> anyhow::Result<()> {
    let settings = settings::follow()?;
    let node_name: Arc<str> = settings.borrow().node_name().into();
    anyhow::ensure!(!node_name.is_empty(), "the machine has no host name yet; set Machine.hostname");
    let (api_tx, api_rx) = watch::channel(None);
    let api = ApiHandle::new(api_rx);
    let (recorder, happenings) = Recorder::new();
    let mut names = vec![node_name.to_string()];
    names.extend(settings.borrow().node_ips().iter().map(ToString::to_string));
    let ctx = Context {
        settings: settings.clone(),
        node_name: node_name.clone(),
        cri: Cri::new(machine::paths::CRI_SOCKET),
        api: api.clone(),
        objects: Objects::new(api.clone()),
        pods: PodStore::default(),
        events: recorder,
        node: sources::api::node(api.clone(), &node_name),
        rates: stats::Rates::default(),
        serving: Arc::new(ServingCertificate::self_signed(names)?),
    };
    let (pressure_tx, pressure) = watch::channel(eviction::Pressures::default());
    let (down_tx, shutting_down) = watch::channel(false);
    let (parts, probes, node_inputs) = parts(&ctx, pressure, shutting_down.clone())?;
    let static_pods =
        sources::file::follow(machine::paths::MANIFESTS.as_ref(), settings.clone(), node_name.clone())?;
    let api_pods = sources::api::pods(api.clone(), &node_name);
    sources::api::services(api.clone(), parts.services.clone());
    let (first_pass, passed) = watch::channel(false);
    let (ends_tx, ends) = mpsc::channel(64);
    tokio::spawn(ready(passed));
    essential("API client", credentials::client::run(settings.clone(), node_name.clone(), api_tx));
    essential(
        "serving certificate",
        credentials::serving::run(settings, node_name.clone(), api.clone(), ctx.serving.clone()),
    );
    essential("events", event_sender::run(api, node_name, happenings));
    essential("mirror pods", sources::mirror::run(ctx.clone(), static_pods.clone(), api_pods.clone()));
    essential("node status", node::run::run(ctx.clone(), node_inputs));
    essential("lease", node::lease::run(ctx.clone()));
    essential("port 10250", server::run(ctx.clone(), parts.probes.clone()));
    essential("log rotation", log_rotation::run(ctx.clone()));
    essential("routes", routes(ctx.clone()));
    let collector = image_gc::Collector::new(ctx.clone());
    essential("evictions", evictions(ctx.clone(), pressure_tx, ends_tx.clone(), collector.clone()));
    essential("image collection", image_gc::run(collector));
    essential("shutdown", shutdown::run(ctx.clone(), ends_tx, down_tx));
    let inputs = manager::Inputs { static_pods, api_pods, probes, ends, shutting_down };
    essential("pods", manager::run(ctx, parts, inputs, first_pass));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    terminate.recv().await;
    tracing::info!("told to end; pods keep running");
    Ok(())
}

/// Says that the agent is ready once every static pod has its task.
async fn ready(mut passed: watch::Receiver<bool>) {
    if passed.wait_for(|passed| *passed).await.is_err() {
        return;
    }
    for _ in 0..30 {
        match machine_socket::ready().await {
            Ok(()) => return,
            Err(error) => tracing::warn!("{error:#}"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}

/// Without routes pods of other nodes cannot be reached, but this node's own run on.
async fn routes(ctx: Context) {
    while let Err(error) = routes::run(ctx.clone()).await {
        tracing::error!("routes to other nodes' pods: {}; trying again", errors::chain(error.as_ref()));
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    }
}

/// Measures pressure; its conditions go to the Node, its victims to the manager.
async fn evictions(
    ctx: Context,
    pressure: watch::Sender<eviction::Pressures>,
    ends: mpsc::Sender<manager::EndPod>,
    collector: image_gc::Collector,
) {
    let reclaim: eviction::Reclaim = Arc::new(move || {
        let collector = collector.clone();
        let freed = async move {
            match collector.reclaim().await {
                Ok(bytes) => bytes > 0,
                Err(error) => {
                    tracing::warn!("remove unused images because the disk is full: {error}");
                    false
                }
            }
        };
        futures::FutureExt::boxed(freed)
    });
    let (victims_tx, mut victims) = mpsc::channel::<eviction::Eviction>(16);
    let measured = ctx.clone();
    let measure: eviction::Measure = Arc::new(move || {
        let ctx = measured.clone();
        let look = async move {
            let sandboxes = ctx.cri.list_pod_sandbox_stats().await.map_err(|error| error.to_string())?;
            let pods: Vec<_> = ctx.pods.snapshot().values().map(|entry| entry.pod.clone()).collect();
            let mut stats = stats::read(machine::paths::STATE.as_ref(), &sandboxes, &pods)
                .map_err(|error| error.to_string())?;
            ctx.rates.fill(&mut stats);
            Ok(stats)
        };
        futures::FutureExt::boxed(look)
    });
    let told = move |p: eviction::Pressures| {
        pressure.send_replace(p);
    };
    let forward = async {
        while let Some(victim) = victims.recv().await {
            let ended = pod::worker::Ended {
                reason: "Evicted".into(),
                message: victim.message,
                grace: 0,
                how: pod::worker::How::Disrupted,
            };
            if let Some(entry) = ctx.pods.get(&victim.pod_uid) {
                ctx.events.pod(&entry.pod, events::Kind::Warning, "Evicted", ended.message.clone());
            }
            if ends.send(manager::EndPod { uid: victim.pod_uid, ended: Some(ended) }).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(eviction::run(ctx.clone(), measure, reclaim, told, victims_tx), forward);
}

/// What pod tasks share, and makes `/kubepods`.
fn parts(
    ctx: &Context,
    pressure: watch::Receiver<eviction::Pressures>,
    shutting_down: watch::Receiver<bool>,
) -> anyhow::Result<(Parts, mpsc::Receiver<probe::Changed>, node::run::Inputs)> {
    let settings = ctx.now();
    let agent = settings.node_agent();
    let facts = cgroup::NodeFacts::read(agent.pod_pids_limit)?;
    let hardware = node::capacity::Hardware::read(&facts);
    let resources = node::capacity::resources(&hardware, agent);
    let cgroups = cgroup::CgroupTree::new("/sys/fs/cgroup", facts.clone());
    if let Err(error) = cgroups.ensure_tiers(&cgroup::kubepods(&resources.kubepods, &facts)) {
        tracing::error!("pods have no limits: {}", errors::chain(&error));
    }
    let allocatable = Arc::new(std::sync::Mutex::new(resources.allocatable));
    let exec: Arc<dyn probe::Exec> = Arc::new(parts::CriExec(ctx.cri.clone()));
    let source: Arc<dyn volumes::Source> =
        Arc::new(api_source::ApiSource { objects: ctx.objects.clone(), node: ctx.node.clone() });
    let (probes_tx, probes) = mpsc::channel(256);
    let recorder = ctx.events.clone();
    let report: probe::Report = Arc::new(move |pod, container, reason, message| {
        let kind = spec::find(pod, container).map_or(spec::Kind::App, |(kind, _)| kind);
        recorder.container(pod, spec::field_path(kind, container), events::Kind::Warning, reason, message);
    });
    let shared = Parts {
        volumes: volumes::Volumes::new(machine::paths::KUBELET, source.clone()),
        cgroups,
        probes: probe::Manager::new(exec.clone(), probes_tx, report),
        exec,
        source,
        services: parts::Services::default(),
        images: images::Images::new(
            agent.serialize_image_pulls,
            images::pulled::Pulled::open(images::pulled::folder()),
        ),
        allocations: allocation::Allocations::open(format!("{}/allocations", machine::paths::KUBELET))?,
        allocatable: allocatable.clone(),
    };
    let inputs = node::run::Inputs { hardware, facts, allocatable, pressure, shutting_down };
    Ok((shared, probes, inputs))
}
