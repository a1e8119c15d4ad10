//! The client certificate, and the client that uses it.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machine::config::Cluster;
use tokio::sync::watch;

use super::csr::{self, Wanted};
use super::pem::{self, Pair};
use crate::settings::Settings;

const STEM: &str = "kubelet-client";

/// How the client shows who it is.
enum Identity<'a> {
    Token(&'a str),
    Certificate(&'a Pair),
}

async fn client(cluster: &Cluster, identity: Identity<'_>) -> anyhow::Result<kube::Client> {
    let user = match identity {
        Identity::Token(token) => serde_json::json!({ "token": token }),
        Identity::Certificate(pair) => {
            let data = STANDARD.encode(&pair.text);
            serde_json::json!({ "client-certificate-data": data, "client-key-data": data })
        }
    };
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
        "users": [{"name": "node", "user": user}],
        "clusters": [{"name": "node", "cluster": {
            "server": cluster.control_plane_endpoint,
            "certificate-authority-data": STANDARD.encode(&cluster.ca.certificate),
        }}],
    });
    let kubeconfig = serde_json::from_value(kubeconfig).context("make a kubeconfig")?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .context("use Cluster.controlPlaneEndpoint and Cluster.ca")?;
    // A machine that boots beside this one does not answer at first; the next try is more likely to reach it than a resent SYN.
    config.connect_timeout = Some(Duration::from_secs(3));
    kube::Client::try_from(config).context("make an API client")
}

fn wanted() -> Wanted {
    Wanted {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        usage: "client auth",
        dns_names: Vec::new(),
        addresses: Vec::new(),
    }
}

/// Sees to it that the node has a client certificate, and renews it in time. Each new one makes a new client.
pub async fn run(
    mut settings: watch::Receiver<Arc<Settings>>,
    node: Arc<str>,
    tx: watch::Sender<Option<kube::Client>>,
) {
    let folder = Path::new(pem::PKI);
    let fraction = f64::from(fastrand(&node)) / 255.0;
    let mut pair = pem::load(folder, STEM).filter(|pair| pair.common_name == format!("system:node:{node}"));
    let mut failures = 0;
    let mut told = String::new();
    loop {
        let Some(cluster) = settings.borrow_and_update().cluster().cloned() else {
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        };
        let now = jiff::Timestamp::now().as_second();
        let usable = pair.as_ref().filter(|pair| pair.not_after > now);
        let unconnected = tx.borrow().is_none();
        if let Some(pair) = usable.filter(|_| unconnected) {
            match client(&cluster, Identity::Certificate(pair)).await {
                Ok(client) => {
                    tx.send_replace(Some(client));
                }
                Err(error) => tell(&mut told, format!("API client: {error:#}")),
            }
        }
        if let Some(due) = usable.map(|pair| pair.rotate_at(fraction) - now).filter(|due| *due > 0) {
            // Woken at least hourly, so that a clock that was set is noticed.
            tokio::time::sleep(Duration::from_secs(due.unsigned_abs().min(3600))).await;
            continue;
        }
        match renew(&cluster, usable, &node).await {
            Ok((new, client)) => {
                failures = 0;
                tracing::info!("client certificate {} issued", new.common_name);
                if let Err(error) = pem::store(folder, STEM, &new) {
                    tell(&mut told, format!("{error:#}"));
                }
                pair = Some(new);
                tx.send_replace(Some(client));
            }
            Err(error) => {
                failures += 1;
                tell(
                    &mut told,
                    format!("client certificate: {}; trying again", crate::errors::chain(error.as_ref())),
                );
                let wait = if unconnected { super::AT_ONCE } else { super::retry_after(failures) };
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn renew(
    cluster: &Cluster,
    current: Option<&Pair>,
    node: &str,
) -> anyhow::Result<(Pair, kube::Client)> {
    let identity = current.map_or(Identity::Token(&cluster.bootstrap_token), Identity::Certificate);
    let asking = client(cluster, identity).await?;
    let pair = csr::request(&asking, node, &wanted()).await?;
    let client = client(cluster, Identity::Certificate(&pair)).await?;
    Ok((pair, client))
}

/// Says a fault once, until it is another.
pub(super) fn tell(told: &mut String, text: String) {
    if *told != text {
        tracing::warn!("{text}");
        *told = text;
    }
}

/// A byte that differs between nodes, and stays.
pub(super) fn fastrand(node: &str) -> u8 {
    node.bytes().fold(17_u8, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte))
}
