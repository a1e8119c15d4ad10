//! What every part of the agent works with.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::cri::Cri;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::pods::PodStore;
use crate::serving::ServingCertificate;
use crate::settings::Settings;

/// The API server's client once there is one; replaced when its certificate is rotated.
pub type ApiWatch = watch::Receiver<Option<kube::Client>>;

/// Handles shared by every task; cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The node's name; it does not change while the agent runs.
    pub node_name: Arc<str>,
    pub cri: Cri,
    pub api: ApiHandle,
    pub objects: Objects,
    pub pods: PodStore,
    pub events: Recorder,
    /// This machine's Node object as last seen; `None` before registration.
    pub node: watch::Receiver<Option<Arc<Node>>>,
    /// How fast CPU time is used.
    pub rates: crate::stats::Rates,
    /// The certificate of port 10250.
    pub serving: Arc<ServingCertificate>,
}

impl Context {
    /// The settings as they are now.
    #[must_use]
    pub fn now(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }
}

/// The way to the API server.
#[derive(Clone)]
pub struct ApiHandle(ApiWatch);

impl std::fmt::Debug for ApiHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiHandle({})", if self.0.borrow().is_some() { "connected" } else { "none" })
    }
}

impl ApiHandle {
    #[must_use]
    pub fn new(watch: ApiWatch) -> Self {
        Self(watch)
    }

    /// The client, or `None` before the node has credentials.
    #[must_use]
    pub fn client(&self) -> Option<kube::Client> {
        self.0.borrow().clone()
    }

    /// Waits for credentials; `None` only when the agent ends.
    pub async fn ready(&self) -> Option<kube::Client> {
        let mut watch = self.0.clone();
        watch.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Waits until the client is replaced.
    pub async fn replaced(&self) {
        let mut watch = self.0.clone();
        watch.mark_unchanged();
        if watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
