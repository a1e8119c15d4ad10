use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use machine::cri;

use crate::pods::ServedPod;
use crate::probe::ExecOutput;
use crate::stats::NodeStats;

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: Vec<(String, Vec<String>)>,
}

/// What the server asks of the rest of the agent. Errors are texts for the caller of the API.
pub trait Backend: Send + Sync + 'static {
    /// All pods of this node, with their current status.
    fn pods(&self) -> Vec<ServedPod>;
    /// The node's name, which access reviews are about.
    fn node_name(&self) -> String;
    /// The settings that `/configz` shows.
    fn configz(&self) -> serde_json::Value;
    /// Where a container's log is; `None` if the runtime does not know the container any more.
    fn log_path<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<Option<PathBuf>, String>>;
    /// Ends when the container does.
    fn ended<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, ()>;
    /// Runs a command and waits for it.
    fn exec_sync<'a>(
        &'a self,
        container_id: &'a str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecOutput, String>>;
    /// The URL of a stream that runs a command.
    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, String>>;
    /// The URL of a stream to a container's own process.
    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, String>>;
    /// The URL of a stream to a pod's ports.
    fn port_forward(&self, request: cri::PortForwardRequest) -> BoxFuture<'_, Result<String, String>>;
    /// Measurements of the node and its pods now.
    fn stats(&self) -> BoxFuture<'_, Result<NodeStats, String>>;
    /// The node's services; none when PID 1 does not answer.
    fn services(&self) -> BoxFuture<'_, Vec<machine::socket::Service>>;
    /// Probe counters as Prometheus text.
    fn probe_metrics(&self) -> String;
    /// Whose token it is (TokenReview); `None`: nobody's.
    fn token_review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>>;
    /// Whether the user may do this to `nodes/<subresource>` of this node (SubjectAccessReview).
    fn access_review<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>>;
}
