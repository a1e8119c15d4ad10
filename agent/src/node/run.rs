//! Registers the node and keeps its status told.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::watch;

use super::capacity::{Hardware, Resources, resources};
use super::object::{self, Facts, Identity, Runtime};
use super::pod_range;
use crate::cgroup::{Amounts, NodeFacts};
use crate::context::Context;
use crate::eviction::Pressures;
use crate::machine_socket;

const AGAIN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(10);
const TELL: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(20);

/// What the node's status depends on beside the machine itself.
#[derive(Debug)]
pub struct Inputs {
    pub hardware: Hardware,
    pub facts: NodeFacts,
    pub allocatable: Arc<Mutex<Amounts>>,
    pub pressure: watch::Receiver<Pressures>,
    pub shutting_down: watch::Receiver<bool>,
}

struct Reporter {
    ctx: Context,
    identity: Identity,
    told: Option<NodeStatus>,
    told_at: tokio::time::Instant,
    ready: Option<(bool, String)>,
    warned: String,
}

/// Runs for as long as the agent lives.
pub async fn run(ctx: Context, inputs: Inputs) {
    let (told, ranges) = watch::channel(String::new());
    // A report takes several answers of the API server; the range does not wait for them.
    tokio::join!(pod_range::follow(&ctx, &told), report(&ctx, inputs, ranges));
}

async fn report(ctx: &Context, mut inputs: Inputs, mut ranges: watch::Receiver<String>) {
    let mut reporter = Reporter {
        ctx: ctx.clone(),
        identity: Identity::read(),
        told: None,
        told_at: tokio::time::Instant::now(),
        ready: None,
        warned: String::new(),
    };
    let mut node = ctx.node.clone();
    let mut settings = ctx.settings.clone();
    let mut wait = Duration::ZERO;
    loop {
        let connected = ctx.api.client().is_some();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Some(_) = ctx.api.ready(), if !connected => {}
            Ok(()) = node.changed() => {}
            Ok(()) = settings.changed() => {}
            Ok(()) = ranges.changed() => {}
            Ok(()) = inputs.pressure.changed() => {}
            Ok(()) = inputs.shutting_down.changed() => {}
        }
        let node_agent = ctx.now().node_agent().clone();
        let available = resources(&inputs.hardware, &node_agent);
        if let Ok(mut allocatable) = inputs.allocatable.lock() {
            allocatable.clone_from(&available.allocatable);
        }
        let pressure = *inputs.pressure.borrow_and_update();
        let shutting_down = *inputs.shutting_down.borrow_and_update();
        wait = match reporter.report(&available, pressure, shutting_down).await {
            Ok(()) => LOOK,
            Err(error) => {
                let text = crate::errors::chain(error.as_ref());
                if text != reporter.warned {
                    tracing::warn!("node status: {text}; trying again");
                    reporter.warned = text;
                }
                AGAIN
            }
        };
    }
}

impl Reporter {
    async fn report(
        &mut self,
        available: &Resources,
        pressure: Pressures,
        shutting_down: bool,
    ) -> anyhow::Result<()> {
        let runtime = read_runtime(&self.ctx).await;
        let name = self.ctx.node_name.to_string();
        let current = self.ctx.node.borrow().clone();
        let previous = self.told.as_ref().and_then(|s| s.conditions.clone());
        let previous =
            previous.or_else(|| current.as_ref()?.status.as_ref()?.conditions.clone()).unwrap_or_default();
        let settings = self.ctx.now();
        let status = object::status(&Facts {
            settings: &settings,
            name: &name,
            identity: &self.identity,
            runtime: &runtime,
            resources: available,
            pressure,
            shutting_down,
            previous: &previous,
            now: Time(jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default()),
        });
        self.report_ready(&status).await;
        let Some(client) = self.ctx.api.client() else { return Ok(()) };
        let nodes: Api<Node> = Api::all(client);
        let fresh = self
            .told
            .as_ref()
            .is_some_and(|told| object::without_heartbeat(told) == object::without_heartbeat(&status));
        if current.is_some() && fresh && self.told_at.elapsed() < TELL {
            return Ok(());
        }
        if current.is_none() || self.told.is_none() {
            register(&nodes, &settings, &name, &status).await?;
        }
        let params = PatchParams::default();
        let patch = Patch::Strategic(object::patch(&status));
        tokio::time::timeout(ANSWER, nodes.patch_status(&name, &params, &patch)).await??;
        self.told = Some(status);
        self.told_at = tokio::time::Instant::now();
        self.warned.clear();
        Ok(())
    }

    /// Tells init, when it changes.
    async fn report_ready(&mut self, status: &NodeStatus) {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let Some(condition) = condition else { return };
        let registered = self.ctx.node.borrow().is_some();
        let (ok, reason, message) = if registered {
            let message = condition.message.clone().unwrap_or_default();
            (condition.status == "True", condition.reason.clone().unwrap_or_default(), message)
        } else {
            (false, "NotRegistered".into(), "the node is not registered with the API server yet".to_owned())
        };
        if self.ready.as_ref() == Some(&(ok, message.clone())) {
            return;
        }
        let since = jiff::Timestamp::now().as_millisecond();
        match machine_socket::node_ready(ok, &reason, &message, since).await {
            Ok(()) => self.ready = Some((ok, message)),
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
}

/// Creates the Node, or brings the labels of the one that is there up to date.
async fn register(
    nodes: &Api<Node>,
    settings: &crate::settings::Settings,
    name: &str,
    status: &NodeStatus,
) -> anyhow::Result<()> {
    let node = object::new_node(settings, name, status.clone());
    match tokio::time::timeout(ANSWER, nodes.create(&PostParams::default(), &node)).await? {
        Ok(_) => {
            tracing::info!("node {name} registered");
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            let labels = serde_json::json!({ "metadata": { "labels": object::labels(settings, name) } });
            let params = PatchParams::default();
            let patch = Patch::Merge(labels);
            tokio::time::timeout(ANSWER, nodes.patch(name, &params, &patch)).await??;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn read_runtime(ctx: &Context) -> Runtime {
    let mut runtime = Runtime::default();
    match ctx.cri.version().await {
        Ok(v) => runtime.name_and_version = format!("{}://{}", v.runtime_name, v.runtime_version),
        Err(error) => runtime.not_ready.push(format!("container runtime is down: {error}")),
    }
    match ctx.cri.status().await {
        Ok(answer) => {
            for condition in answer.status.iter().flat_map(|s| &s.conditions).filter(|c| !c.status) {
                let what = if condition.r#type == "NetworkReady" {
                    "container runtime network"
                } else {
                    "container runtime"
                };
                let text = format!(
                    "{what} not ready: {}={} reason:{} message:{}",
                    condition.r#type, condition.status, condition.reason, condition.message
                );
                runtime.not_ready.push(text);
            }
            runtime.supplemental_groups_policy =
                answer.features.is_some_and(|f| f.supplemental_groups_policy);
            runtime.handlers = answer.runtime_handlers;
        }
        Err(error) if runtime.not_ready.is_empty() => {
            runtime.not_ready.push(format!("container runtime is down: {error}"))
        }
        Err(_) => {}
    }
    runtime.images = ctx.cri.list_images().await.unwrap_or_default();
    runtime
}
