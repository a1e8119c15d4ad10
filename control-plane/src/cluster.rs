//! The conversation with the API server: add-ons, the node's marks, approval of certificates, health.
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::addons::{self, Observed};
use crate::input::Input;
use crate::layout::{self, Layout};
use crate::{apply, approve, conditions, machine_socket};

/// How often a server that is not up yet is asked again.
const STARTING: Duration = Duration::from_secs(1);
/// How often health, the node's marks and requests whose Node was missing are looked at again.
const TICK: Duration = Duration::from_secs(15);
/// How often the add-ons are applied again although nothing changed here.
const REAPPLY: Duration = Duration::from_secs(600);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Returns once the API server of this node is ready; until then its condition says what is missing.
///
/// # Errors
/// When there is no usable kubeconfig.
pub async fn ready(layout: &Layout, input: &Input) -> Result<()> {
    Health::default().wait(input, &connect(layout, input).await?).await;
    Ok(())
}

/// Serves the cluster for as long as the input holds; never returns, drop it to end it.
pub async fn run(layout: &Layout, input: &Input) {
    let mut health = Health::default();
    let mut backoff = STARTING;
    let mut last = String::new();
    loop {
        let started = Instant::now();
        if let Err(error) = session(layout, input, &mut health).await {
            let text = format!("{error:#}");
            if text != last {
                tracing::warn!(error = text, "the cluster is not as configured yet; trying again");
                last = text;
            }
        }
        backoff = if started.elapsed() > BACKOFF_MAX { STARTING } else { (backoff * 2).min(BACKOFF_MAX) };
        sleep(backoff).await;
    }
}

async fn session(layout: &Layout, input: &Input, health: &mut Health) -> Result<()> {
    let client = connect(layout, input).await?;
    let kubelet_ca = kubelet_ca(layout)?;
    let reserved = approve::Reserved::new(input);
    health.wait(input, &client).await;
    let mut observed = observe(&client).await?;
    apply::apply(&client, &addons::objects(input, observed, &kubelet_ca)?).await?;
    tracing::info!("add-ons are applied");
    let mut applied = Instant::now();

    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let selector = watcher::Config::default().fields(&format!("spec.signerName={}", approve::SIGNER));
    let mut changes = pin!(watcher(requests, selector).default_backoff());
    let mut tick = Instant::now();
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(watcher::Event::Apply(_) | watcher::Event::InitDone)) => {
                    approve::approve_pending(&client, &reserved).await?;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("watch certificate signing requests"),
                None => return Ok(()),
            },
            () = sleep_until(tick) => {
                tick = Instant::now() + TICK;
                if !health.look(input, &client).await {
                    continue;
                }
                approve::approve_pending(&client, &reserved).await?;
                mark(&client, input).await?;
                let now = observe(&client).await?;
                if now != observed || applied.elapsed() > REAPPLY {
                    apply::apply(&client, &addons::objects(input, now, &kubelet_ca)?).await?;
                    (observed, applied) = (now, Instant::now());
                }
            }
        }
    }
}

/// A client with the administrator's certificate to the API server beside this process.
async fn connect(layout: &Layout, input: &Input) -> Result<Client> {
    let path = layout.at(&layout::kubeconfig("admin"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let kubeconfig = Kubeconfig::from_yaml(&text).context("read the administrator's kubeconfig")?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("use the administrator's kubeconfig")?;
    config.cluster_url = input.local_url().parse().context("the URL of the local API server")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("make a client of the API server")
}

/// The certificate of the authority that signs for kubelets, for clients of theirs.
fn kubelet_ca(layout: &Layout) -> Result<String> {
    let path = layout.at(&layout::pki("kubelet-serving-ca.crt"));
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

async fn observe(client: &Client) -> Result<Observed> {
    let nodes: Api<Node> = Api::all(client.clone());
    let list = nodes.list_metadata(&ListParams::default().limit(2)).await.context("list Nodes")?;
    Ok(Observed { several_nodes: list.items.len() > 1 })
}

/// Gives this node the label and the taint of a control-plane node, which its own agent may not.
async fn mark(client: &Client, input: &Input) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let what = || format!("mark Node {} as control plane", input.node_name);
    let Some(node) = nodes.get_opt(&input.node_name).await.with_context(what)? else { return Ok(()) };
    let Some(patch) = marks(&node, input.cluster.schedule_on_control_plane) else { return Ok(()) };
    nodes.patch(&input.node_name, &PatchParams::default(), &Patch::Merge(&patch)).await.with_context(what)?;
    tracing::info!(node = input.node_name, "marked as control plane");
    Ok(())
}

/// The patch that marks a Node, if it is not marked yet.
fn marks(node: &Node, schedule: bool) -> Option<serde_json::Value> {
    let labels = node.metadata.labels.as_ref();
    let labelled = labels.is_some_and(|labels| labels.contains_key(CONTROL_PLANE));
    let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let before = taints.len();
    taints.retain(|taint| taint.key != CONTROL_PLANE);
    let tainted = before != taints.len();
    if labelled && tainted != schedule {
        return None;
    }
    let mut taints = json!(taints);
    if !schedule && let Some(list) = taints.as_array_mut() {
        list.push(json!({"key": CONTROL_PLANE, "effect": "NoSchedule"}));
    }
    Some(json!({
        // Makes the API server refuse the patch when somebody else changed the taints meanwhile.
        "metadata": {
            "resourceVersion": node.metadata.resource_version,
            "labels": {CONTROL_PLANE: "", "node.kubernetes.io/exclude-from-external-load-balancers": ""},
        },
        "spec": {"taints": taints},
    }))
}

/// What was last reported, so that only changes are.
#[derive(Debug, Default)]
struct Health {
    etcd: Option<String>,
    api_server: Option<String>,
}

impl Health {
    async fn wait(&mut self, input: &Input, client: &Client) {
        while !self.look(input, client).await {
            sleep(STARTING).await;
        }
    }

    /// Looks at etcd and the API server and reports changes; true when the API server is ready.
    async fn look(&mut self, input: &Input, client: &Client) -> bool {
        let etcd = conditions::etcd(input).await;
        publish(&mut self.etcd, "EtcdReady", &etcd).await;
        let api_server = conditions::api_server(client).await;
        publish(&mut self.api_server, "ApiServerReady", &api_server).await;
        api_server.is_ok()
    }
}

async fn publish(last: &mut Option<String>, name: &str, result: &Result<()>) {
    let message = result.as_ref().err().map_or_else(String::new, |error| format!("{error:#}"));
    if last.as_ref() == Some(&message) {
        return;
    }
    let reason = if result.is_ok() { "Answers" } else { "NoAnswer" };
    match machine_socket::report(name, result.is_ok(), reason, &message).await {
        Ok(()) => *last = Some(message),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "a condition was not reported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: serde_json::Value, taints: serde_json::Value) -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "cp1", "labels": labels}, "spec": {"taints": taints}}),
        )
        .unwrap()
    }

    #[test]
    fn a_node_is_marked_once_and_other_taints_stay() {
        let other = json!({"key": "example/other", "effect": "NoExecute"});
        let own = json!({"key": CONTROL_PLANE, "effect": "NoSchedule"});
        let patch = marks(&node(json!({}), json!([other])), false).unwrap();
        assert_eq!(patch["spec"]["taints"], json!([other, own]));
        assert_eq!(patch["metadata"]["labels"][CONTROL_PLANE], "");
        assert_eq!(marks(&node(json!({CONTROL_PLANE: ""}), json!([other, own])), false), None);
    }

    #[test]
    fn the_taint_goes_when_pods_may_run_there() {
        let own = json!({"key": CONTROL_PLANE, "effect": "NoSchedule"});
        let patch = marks(&node(json!({CONTROL_PLANE: ""}), json!([own])), true).unwrap();
        assert_eq!(patch["spec"]["taints"], json!([]));
        assert_eq!(marks(&node(json!({CONTROL_PLANE: ""}), json!([])), true), None);
    }
}
