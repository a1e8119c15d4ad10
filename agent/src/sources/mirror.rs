//! Mirror pods: how the API server sees static pods.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::sync::watch;

use super::api::ApiPods;
use super::file::StaticPods;
use crate::context::Context;
use crate::spec;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";

/// One thing to do with a mirror pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

/// What has to be done so that each static pod has one mirror of its present state, and no other mirror is left.
#[must_use]
pub fn plan(static_pods: &BTreeMap<String, Arc<Pod>>, api_pods: &BTreeMap<String, Arc<Pod>>) -> Vec<Action> {
    let full_name = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    let mut actions = Vec::new();
    for mirror in api_pods.values().filter(|pod| spec::is_mirror(pod)) {
        let original = static_pods.values().find(|pod| full_name(pod) == full_name(mirror));
        let current =
            original.is_some_and(|pod| spec::annotation(pod, HASH) == spec::annotation(mirror, MIRROR));
        if !current || mirror.metadata.deletion_timestamp.is_some() {
            actions.push(Action::Delete(mirror.clone()));
        }
    }
    for pod in static_pods.values() {
        if !api_pods.values().any(|other| full_name(other) == full_name(pod)) {
            actions.push(Action::Create(pod.clone()));
        }
    }
    actions
}

fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    let hash = spec::annotation(pod, HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

/// Keeps the mirrors for as long as the agent lives.
pub async fn run(
    ctx: Context,
    mut static_pods: watch::Receiver<StaticPods>,
    mut api_pods: watch::Receiver<ApiPods>,
) {
    let mut told = String::new();
    let mut node = ctx.node.clone();
    loop {
        let statics = static_pods.borrow_and_update().clone();
        let listed = api_pods.borrow_and_update().clone();
        let this = node.borrow_and_update().clone();
        let mut failed = None;
        if let (Some(listed), Some(this), Some(client)) = (listed, this, ctx.api.client()) {
            for action in plan(&statics, &listed) {
                if let Err(error) = perform(&client, &action, &this).await {
                    failed = Some(error);
                }
            }
        }
        if let Some(text) = failed.clone().filter(|text| *text != told) {
            tracing::warn!("mirror pods: {text}");
            told = text;
        }
        let retry = if failed.is_some() { Duration::from_secs(5) } else { Duration::from_secs(3600) };
        tokio::select! {
            changed = static_pods.changed() => if changed.is_err() { return },
            changed = api_pods.changed() => if changed.is_err() { return },
            changed = node.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry) => {}
        }
    }
}

async fn perform(client: &kube::Client, action: &Action, node: &Node) -> Result<(), String> {
    let (Action::Create(pod) | Action::Delete(pod)) = action;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let request = async {
        match action {
            Action::Create(pod) => match pods.create(&PostParams::default(), &mirror_of(pod, node)).await {
                Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
                other => other.map(drop),
            },
            Action::Delete(pod) => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..Default::default()
                };
                match pods.delete(&name, &params).await {
                    Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
                    other => other.map(drop),
                }
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), request).await {
        Ok(result) => result.map_err(|error| format!("{namespace}/{name}: {}", crate::errors::chain(&error))),
        Err(_) => Err(format!("{namespace}/{name}: no answer from the API server within 20 s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, annotations: &[(&str, &str)]) -> Arc<Pod> {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Arc::new(serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "kube-system", "annotations": annotations}})).unwrap())
    }

    #[test]
    fn a_changed_manifest_gets_a_new_mirror() {
        let new: BTreeMap<_, _> =
            [("u".to_owned(), pod("etcd", &[(HASH, "2"), ("kubernetes.io/config.source", "file")]))].into();
        let old = pod("etcd", &[(HASH, "1"), (MIRROR, "1")]);
        let listed: BTreeMap<_, _> = [("m".to_owned(), old.clone())].into();
        assert_eq!(plan(&new, &listed), [Action::Delete(old.clone())]);
        assert!(matches!(plan(&new, &BTreeMap::new())[..], [Action::Create(_)]));
        assert_eq!(plan(&BTreeMap::new(), &listed), [Action::Delete(old)]);
        let current: BTreeMap<_, _> = [("m".to_owned(), pod("etcd", &[(MIRROR, "2")]))].into();
        assert_eq!(plan(&new, &current), []);
    }
}
