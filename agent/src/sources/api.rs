//! Pods that the API server has bound to this node, and all Services, each kept by one watch.
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use node_kit::tasks::essential;
use tokio::sync::watch;

use crate::api_handle::ApiHandle;
use crate::parts::Services;
use crate::watching;

/// Pods by uid; `None` until they have been listed once.
pub type ApiPods = Option<Arc<BTreeMap<String, Arc<Pod>>>>;

/// Follows the pods of this node.
#[must_use]
pub fn pods(api: ApiHandle, node: &str) -> watch::Receiver<ApiPods> {
    let (tx, rx) = watch::channel(None);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    essential("watch of pods", async move {
        let mut listing = BTreeMap::new();
        let keep = |mut pod: Pod| {
            pod.metadata.managed_fields = None;
            (pod.uid().unwrap_or_default(), Arc::new(pod))
        };
        watching::objects(api, "pods", Api::all, config, |event| match event {
            Event::Init => listing = BTreeMap::new(),
            Event::InitApply(pod) => {
                let (uid, pod) = keep(pod);
                listing.insert(uid, pod);
            }
            Event::InitDone => {
                tx.send_replace(Some(Arc::new(std::mem::take(&mut listing))));
            }
            Event::Apply(pod) => {
                let (uid, pod) = keep(pod);
                tx.send_modify(|pods| {
                    Arc::make_mut(pods.get_or_insert_default()).insert(uid, pod);
                });
            }
            Event::Delete(pod) => {
                let uid = pod.uid().unwrap_or_default();
                tx.send_modify(|pods| {
                    Arc::make_mut(pods.get_or_insert_default()).remove(&uid);
                });
            }
        })
        .await;
    });
    rx
}

/// Follows all Services, for the environment of containers.
pub fn services(api: ApiHandle, services: Services) {
    essential("watch of services", async move {
        let mut current: BTreeMap<(String, String), Arc<Service>> = BTreeMap::new();
        let key = |s: &Service| (s.namespace().unwrap_or_default(), s.name_any());
        let slim = |mut s: Service| {
            s.metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: s.metadata.name,
                namespace: s.metadata.namespace,
                ..Default::default()
            };
            s.status = None;
            Arc::new(s)
        };
        watching::objects(api, "services", Api::all, watcher::Config::default(), |event| {
            let publish = match event {
                Event::Init => {
                    current = BTreeMap::new();
                    false
                }
                Event::InitApply(service) => {
                    current.insert(key(&service), slim(service));
                    false
                }
                Event::InitDone => true,
                Event::Apply(service) => {
                    current.insert(key(&service), slim(service));
                    true
                }
                Event::Delete(service) => current.remove(&key(&service)).is_some(),
            };
            if publish {
                services.replace(current.clone());
            }
        })
        .await;
    });
}

/// Follows this machine's Node object.
#[must_use]
pub fn node(api: ApiHandle, name: &str) -> watch::Receiver<Option<Arc<Node>>> {
    let (tx, rx) = watch::channel(None);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    essential("watch of the node", async move {
        let mut seen = false;
        watching::objects(api, "node", Api::all, config, |event: Event<Node>| match event {
            Event::Init => seen = false,
            Event::InitApply(node) | Event::Apply(node) => {
                seen = true;
                tx.send_replace(Some(Arc::new(node)));
            }
            Event::InitDone if !seen => {
                tx.send_replace(None);
            }
            Event::InitDone => {}
            Event::Delete(_) => {
                tx.send_replace(None);
            }
        })
        .await;
    });
    rx
}
