//! All ClusterTrustBundles, watched from the first time that a pod here shows one.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use node_kit::tasks::essential;
use tokio::sync::watch;

use crate::api_handle::ApiHandle;
use crate::volumes::TrustBundle;
use crate::watching;

const FIRST_LIST: Duration = Duration::from_secs(15);

type Known = Option<Arc<Vec<TrustBundle>>>;

/// The watch; clones share it.
#[derive(Debug, Clone)]
pub struct TrustBundles {
    api: ApiHandle,
    known: watch::Sender<Known>,
    begun: Arc<AtomicBool>,
}

impl TrustBundles {
    #[must_use]
    pub fn new(api: ApiHandle) -> Self {
        Self { api, known: watch::Sender::default(), begun: Arc::default() }
    }

    /// All of them as last seen; the first time, once they have been listed.
    ///
    /// # Errors
    /// When the API server has not listed them in 15 s.
    pub async fn get(&self) -> Result<Arc<Vec<TrustBundle>>, String> {
        if !self.begun.swap(true, Ordering::Relaxed) {
            essential("watch of trust bundles", follow(self.api.clone(), self.known.clone()));
        }
        let mut known = self.known.subscribe();
        let listed = tokio::time::timeout(FIRST_LIST, known.wait_for(Option::is_some)).await;
        let listed = listed.ok().and_then(Result::ok).and_then(|known| known.clone());
        listed.ok_or_else(|| "ClusterTrustBundle informer has not yet synced".to_owned())
    }

    /// Changes whenever one of them does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }
}

async fn follow(api: ApiHandle, known: watch::Sender<Known>) {
    let stream =
        |client| watcher::watcher(Api::<ClusterTrustBundle>::all(client), watcher::Config::default());
    let mut current: BTreeMap<String, TrustBundle> = BTreeMap::new();
    let slim = |bundle: ClusterTrustBundle| {
        let name = bundle.name_any();
        let labels = bundle.metadata.labels.unwrap_or_default();
        let (signer, anchors) = (bundle.spec.signer_name, bundle.spec.trust_bundle);
        (name.clone(), TrustBundle { name, signer, labels, anchors })
    };
    let mut listing = false;
    let next = |next: Result<Event<ClusterTrustBundle>, watcher::Error>| {
        match next {
            Ok(Event::Init) => {
                current.clear();
                listing = true;
            }
            Ok(Event::InitApply(bundle) | Event::Apply(bundle)) => {
                let (name, bundle) = slim(bundle);
                current.insert(name, bundle);
            }
            Ok(Event::Delete(bundle)) => {
                current.remove(&bundle.name_any());
            }
            Ok(Event::InitDone) => listing = false,
            Err(error) => {
                tracing::debug!("watch cluster trust bundles: {}", crate::errors::chain(&error));
                return;
            }
        }
        if !listing {
            known.send_replace(Some(Arc::new(current.values().cloned().collect())));
        }
    };
    watching::follow(api, stream, next).await;
}
