//! Events about pods and the node (core/v1), aggregated by what they say and bounded: a full queue drops, and nothing waits for it.
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::ResourceExt as _;
use tokio::sync::mpsc;

/// The severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Normal,
    Warning,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    pub about: ObjectReference,
    pub kind: Kind,
    pub reason: &'static str,
    pub message: String,
}

/// Where events are reported; clones share one queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Happening>,
}

/// Events that may wait for the API server; more are dropped.
pub const QUEUE: usize = 512;

impl Recorder {
    /// A recorder and the queue that its sender empties.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Happening>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, receiver)
    }

    /// Reports something about a pod.
    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.send(Happening { about: pod_reference(pod, None), kind, reason, message: message.into() });
    }

    /// Reports something about one container of a pod; `field` is such as `spec.containers{web}`.
    pub fn container(
        &self,
        pod: &Pod,
        field: String,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(Happening {
            about: pod_reference(pod, Some(field)),
            kind,
            reason,
            message: message.into(),
        });
    }

    /// Reports something about the node.
    pub fn node(&self, node: &str, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: Some(node.into()),
            ..Default::default()
        };
        self.send(Happening { about, kind, reason, message: message.into() });
    }

    fn send(&self, happening: Happening) {
        tracing::debug!(reason = happening.reason, "{}", happening.message);
        if self.queue.try_send(happening).is_err() {
            tracing::debug!("an event was dropped: the queue is full");
        }
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        resource_version: pod.resource_version(),
        field_path,
    }
}

/// The node's reference in events; the kubelet uses the name as uid.
#[must_use]
pub fn node_name(node: &Node) -> String {
    node.name_any()
}
