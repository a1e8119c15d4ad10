use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use machine::config::PodNetworkKind;
use node_kit::tasks::essential;
use rtnetlink::Handle;
use tokio::sync::watch;

use super::decide::{Peer, changes, peer, wanted};
use super::kernel;
use crate::{Context, watching};

/// Repeats what failed, and undoes what somebody else did to our routes.
const AGAIN: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the routes to other nodes' pods for ever.
///
/// # Errors
/// When no netlink socket can be opened.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket for routes")?;
    tokio::spawn(connection);
    let mut settings = ctx.settings.clone();
    let mut peers = peers(&ctx);
    let mut wait = AGAIN;
    loop {
        tokio::select! {
            changed = peers.changed() => if changed.is_err() { return Ok(()) },
            changed = settings.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(wait) => {}
        }
        let Some(mut peers) = peers.borrow().clone() else { continue };
        if settings.borrow().cluster().is_some_and(|cluster| cluster.pod_network == PodNetworkKind::Cni) {
            // A CNI network leads to other nodes' pods in its own way; routes of ours, as of a time before it, would cross it.
            peers.clear();
        }
        let links: Vec<IpNet> = settings.borrow().network.addresses.iter().map(|a| a.address).collect();
        wait = if apply(&handle, &ctx.node_name, &peers, &links).await { AGAIN } else { RETRY };
    }
}

type Peers = BTreeMap<String, Peer>;

/// Follows the other nodes. `None` until the first list is complete, so that routes that are there stay: peers that are not known yet are not gone.
fn peers(ctx: &Context) -> watch::Receiver<Option<Peers>> {
    let (sender, receiver) = watch::channel(None);
    let api = ctx.api.clone();
    essential("watch of nodes", async move {
        let (mut peers, mut listing, mut complete) = (Peers::new(), Peers::new(), false);
        watching::objects(api, "nodes for routes", Api::<Node>::all, watcher::Config::default(), |event| {
            let taken = take(event, &mut peers, &mut listing);
            complete |= taken == Taken::Complete;
            if complete && taken != Taken::Nothing {
                sender.send_replace(Some(peers.clone()));
            }
        })
        .await;
    });
    receiver
}

#[derive(PartialEq, Eq)]
enum Taken {
    Nothing,
    Changed,
    Complete,
}

/// Keeps of each Node what routes need; Nodes change every few seconds, and routes hardly ever.
fn take(event: Event<Node>, peers: &mut Peers, listing: &mut Peers) -> Taken {
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    match event {
        Event::Init => listing.clear(),
        Event::InitApply(node) => {
            listing.insert(name(&node), peer(&node));
        }
        Event::InitDone => {
            *peers = std::mem::take(listing);
            return Taken::Complete;
        }
        Event::Apply(node) => {
            let new = peer(&node);
            if peers.get(&name(&node)) != Some(&new) {
                peers.insert(name(&node), new);
                return Taken::Changed;
            }
        }
        Event::Delete(node) => {
            if peers.remove(&name(&node)).is_some() {
                return Taken::Changed;
            }
        }
    }
    Taken::Nothing
}

/// Removes, then adds. False: something failed and is to be tried again.
async fn apply(handle: &Handle, own: &str, peers: &Peers, links: &[IpNet]) -> bool {
    let present = match kernel::list(handle).await {
        Ok(present) => present,
        Err(error) => {
            tracing::warn!("{error}");
            return false;
        }
    };
    let (stale, missing) = changes(&wanted(own, peers, links), &present);
    let mut done = true;
    for (route, is_new) in stale.iter().map(|r| (r, false)).chain(missing.iter().map(|r| (r, true))) {
        let result =
            if is_new { kernel::add(handle, *route).await } else { kernel::remove(handle, *route).await };
        match result {
            Ok(()) => {
                tracing::info!(pods = %route.pods, via = %route.via, "route {}", if is_new { "added" } else { "removed" })
            }
            Err(error) => {
                tracing::warn!("{error}");
                done = false;
            }
        }
    }
    done
}
