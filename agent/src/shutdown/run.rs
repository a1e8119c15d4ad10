//! Holds the inhibitor, and ends the pods when the machine goes down.
use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::login1::Login1;
use super::order::{Down, ended, groups};
use crate::admission;
use crate::context::Context;
use crate::events::Kind;
use crate::manager::EndPod;
use crate::pods::Snapshot;

const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait for the API server to hear of the shutdown, and of the ends of pods.
const TELL: Duration = Duration::from_secs(2);
/// Beyond a group's grace, for the runtime to kill what did not end by itself.
const KILL: Duration = Duration::from_secs(2);

/// Runs for as long as the agent lives. `down` says whether the node is shutting down.
pub async fn run(ctx: Context, ends: mpsc::Sender<EndPod>, down: watch::Sender<bool>) {
    let mut told = String::new();
    loop {
        if let Err(error) = session(&ctx, machine::paths::SYSTEM_BUS, &ends, &down).await {
            let text = error.to_string();
            if text != told {
                tracing::warn!("login1: {text}; pods are not waited for at a shutdown until it answers");
                told = text;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One connection to login1.
pub(super) async fn session(
    ctx: &Context,
    bus: &str,
    ends: &mpsc::Sender<EndPod>,
    down: &watch::Sender<bool>,
) -> zbus::Result<()> {
    let mut login1 = Login1::connect(bus).await?;
    let mut inhibitor = Some(login1.inhibit().await?);
    // The machine may be going down since before this agent began.
    let mut word = login1.preparing().await?.then_some(Down::PowerOff);
    loop {
        match word {
            Some(how) => {
                tracing::info!("the machine goes down ({how:?}); pods end");
                ctx.events.node(
                    &ctx.node_name,
                    Kind::Normal,
                    "Shutdown",
                    "Shutdown manager detected shutdown event",
                );
                down.send_replace(true);
                tell_node(ctx).await;
                end_pods(ctx, how, ends).await;
                drop(inhibitor.take());
            }
            None if *down.borrow() => {
                let message = "Shutdown manager detected shutdown cancellation";
                ctx.events.node(&ctx.node_name, Kind::Normal, "Shutdown", message);
                inhibitor = Some(login1.inhibit().await?);
                down.send_replace(false);
                for uid in ctx.pods.snapshot().keys() {
                    let _ = ends.send(EndPod { uid: uid.clone(), ended: None }).await;
                }
            }
            None => {}
        }
        word = login1.next().await?;
    }
}

/// Waits until the API server has this node as not ready: the server itself may be among the pods that end next.
async fn tell_node(ctx: &Context) {
    let ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
    };
    let mut node = ctx.node.clone();
    let told = node.wait_for(|node| node.as_deref().is_none_or(|node| !ready(node)));
    if timeout(TELL, told).await.is_err() {
        tracing::warn!("the API server was not told of the shutdown within {} s", TELL.as_secs());
    }
}

async fn end_pods(ctx: &Context, down: Down, ends: &mpsc::Sender<EndPod>) {
    let settings = ctx.now();
    let agent = settings.node_agent();
    let snapshot = ctx.pods.snapshot();
    let pods: Vec<&Pod> =
        snapshot.values().map(|entry| &*entry.pod).filter(|pod| admission::is_active(pod)).collect();
    let total = agent.shutdown_grace_period_seconds;
    let groups = groups(&pods, total, agent.shutdown_grace_period_critical_pods_seconds);
    let last = groups.len();
    for (index, group) in groups.into_iter().enumerate() {
        let mut uids = BTreeSet::new();
        for pod in &group.pods {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let end = EndPod { uid: uid.clone(), ended: Some(ended(pod, group.grace, down)) };
            if ends.send(end).await.is_err() {
                return;
            }
            uids.insert(uid);
        }
        let grace = Duration::from_secs(group.grace.unsigned_abs()) + KILL;
        let left = settle(ctx, &uids, Instant::now() + grace, index + 1 < last).await;
        if left.is_empty() {
            tracing::info!("{} pods have ended", uids.len());
        } else {
            tracing::warn!("not ended within {} s: {}", grace.as_secs(), left.join(", "));
        }
    }
}

/// Waits until these pods have stopped and, with `tell`, a little longer for the API server to know. Answers who has not stopped.
async fn settle(ctx: &Context, uids: &BTreeSet<String>, deadline: Instant, tell: bool) -> Vec<String> {
    let mut watch = ctx.pods.watch();
    let running = |pods: &Snapshot| -> Vec<String> {
        let running = uids.iter().filter_map(|uid| pods.get(uid)).filter(|entry| !entry.stopped);
        let name = |pod: &Pod| {
            let m = &pod.metadata;
            format!("{}/{}", m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
        };
        running.map(|entry| name(&entry.pod)).collect()
    };
    let left = match timeout_at(deadline, watch.wait_for(|pods| running(pods).is_empty())).await {
        Ok(_) => Vec::new(),
        Err(_) => running(&ctx.pods.snapshot()),
    };
    let told = |pods: &Snapshot| uids.iter().filter_map(|uid| pods.get(uid)).all(|entry| entry.told);
    if tell && timeout(TELL, watch.wait_for(told)).await.is_err() {
        tracing::warn!("the API server was not told of all ends within {} s", TELL.as_secs());
    }
    left
}
