use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use rtnetlink::Handle;

use super::decide::{Peer, changes, peer, wanted};
use super::kernel;
use crate::Context;

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
    loop {
        let Some(client) = ctx.api.ready().await else { return Ok(()) };
        let mut events =
            std::pin::pin!(watcher::watcher(Api::<Node>::all(client), watcher::Config::default()));
        let mut peers = BTreeMap::new();
        let mut listing = BTreeMap::new();
        // Until the first list is complete, routes that are there stay: peers that are not known yet are not gone.
        let mut complete = false;
        let mut wait = AGAIN;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => match take(event, &mut peers, &mut listing) {
                        Taken::Nothing => continue,
                        Taken::Changed => {}
                        Taken::Complete => complete = true,
                    },
                    Some(Err(error)) => {
                        tracing::warn!("watch nodes for routes: {error}; may the group system:nodes list nodes?");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                    None => break,
                },
                changed = settings.changed() => if changed.is_err() { return Ok(()) },
                () = ctx.api.replaced() => break,
                () = tokio::time::sleep(wait) => {}
            }
            if complete {
                let links: Vec<IpNet> =
                    settings.borrow().network.addresses.iter().map(|a| a.address).collect();
                wait = if apply(&handle, &ctx.node_name, &peers, &links).await { AGAIN } else { RETRY };
            }
        }
    }
}

enum Taken {
    Nothing,
    Changed,
    Complete,
}

/// Keeps of each Node what routes need; Nodes change every few seconds, and routes hardly ever.
fn take(
    event: Event<Node>,
    peers: &mut BTreeMap<String, Peer>,
    listing: &mut BTreeMap<String, Peer>,
) -> Taken {
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
async fn apply(handle: &Handle, own: &str, peers: &BTreeMap<String, Peer>, links: &[IpNet]) -> bool {
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
