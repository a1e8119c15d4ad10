//! What every part of the agent works with.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::api_handle::ApiHandle;
use crate::cri::Cri;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::pods::PodStore;
use crate::serving::ServingCertificate;
use crate::settings::Settings;

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
