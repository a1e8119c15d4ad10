//! The serving certificate of port 10250.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::client::{fastrand, tell};
use super::csr::{self, Wanted};
use super::pem::{self, Pair};
use crate::api_handle::ApiHandle;
use crate::serving::{ServingCertificate, certified_key};
use crate::settings::Settings;

const STEM: &str = "kubelet-server";

fn wanted(settings: &Settings, node: &str) -> Wanted {
    Wanted {
        signer: "kubernetes.io/kubelet-serving",
        usage: "server auth",
        dns_names: vec![node.to_owned()],
        addresses: settings.node_ips(),
    }
}

fn install(serving: &ServingCertificate, pair: &Pair) -> anyhow::Result<()> {
    let (chain, key) = pair.rustls()?;
    serving.replace(certified_key(chain, key)?);
    Ok(())
}

/// Sees to it that the node has a serving certificate for its present addresses, and renews it in time. Until the first is issued the
/// self-signed one serves.
pub async fn run(
    mut settings: tokio::sync::watch::Receiver<Arc<Settings>>,
    node: Arc<str>,
    api: ApiHandle,
    serving: Arc<ServingCertificate>,
) {
    let folder = Path::new(pem::PKI);
    let fraction = f64::from(fastrand(&node)) / 255.0;
    let mut pair = pem::load(folder, STEM).filter(|pair| pair.common_name == format!("system:node:{node}"));
    if let Some(pair) = &pair
        && let Err(error) = install(&serving, pair)
    {
        tracing::warn!("serving certificate: {error:#}");
    }
    let mut known = pair.as_ref().map(|_| wanted(&settings.borrow(), &node));
    let mut failures = 0;
    let mut told = String::new();
    loop {
        let want = wanted(&settings.borrow_and_update().clone(), &node);
        let now = jiff::Timestamp::now().as_second();
        let due = pair.as_ref().map_or(0, |pair| pair.rotate_at(fraction) - now);
        if due > 0 && known.as_ref() == Some(&want) {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(due.unsigned_abs().min(3600))) => {}
                changed = settings.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let Some(client) = api.ready().await else { return };
        let result = csr::request(&client, &node, &want).await;
        match result.and_then(|new| install(&serving, &new).map(|()| new)) {
            Ok(new) => {
                failures = 0;
                tracing::info!("serving certificate for {:?} {:?} issued", want.dns_names, want.addresses);
                if let Err(error) = pem::store(folder, STEM, &new) {
                    tell(&mut told, format!("{error:#}"));
                }
                pair = Some(new);
                known = Some(want);
            }
            Err(error) => {
                failures += 1;
                tell(
                    &mut told,
                    format!("serving certificate: {}; trying again", crate::errors::chain(error.as_ref())),
                );
                tokio::time::sleep(super::retry_after(failures)).await;
            }
        }
    }
}
