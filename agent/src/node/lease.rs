//! The node's lease: its heartbeat.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";
const SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);

/// Renews the lease for as long as the agent lives.
pub async fn run(ctx: Context) {
    let mut lease: Option<Lease> = None;
    let mut told = false;
    while let Some(client) = ctx.api.ready().await {
        let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
        match tokio::time::timeout(RENEW, renew(&ctx, &leases, lease.take())).await {
            Ok(Ok(renewed)) => {
                lease = Some(renewed);
                told = false;
            }
            Ok(Err(error)) if !told => {
                tracing::warn!("lease: {}; trying again", crate::errors::chain(&error));
                told = true;
            }
            _ => {}
        }
        tokio::time::sleep(if lease.is_some() { RENEW } else { Duration::from_secs(2) }).await;
    }
}

async fn renew(ctx: &Context, leases: &Api<Lease>, known: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &*ctx.node_name;
    let known = match known {
        Some(lease) => Some(lease),
        None => leases.get_opt(name).await?,
    };
    let now = MicroTime(jiff::Timestamp::now());
    let owner = ctx.node.borrow().as_ref().map(|node| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..Default::default()
    });
    let mut lease = known.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.into()),
            ..Default::default()
        },
        ..Default::default()
    });
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
        lease.metadata.owner_references = owner.map(|owner| vec![owner]);
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(SECONDS),
        renew_time: Some(now),
        ..lease.spec.unwrap_or_default()
    });
    if lease.metadata.resource_version.is_some() {
        leases.replace(name, &PostParams::default(), &lease).await
    } else {
        leases.create(&PostParams::default(), &lease).await
    }
}
