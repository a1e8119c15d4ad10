//! The way to the API server, which comes and changes with the agent's credentials.
use tokio::sync::watch;

/// The API server's client once there is one; replaced when its certificate is rotated.
pub type ApiWatch = watch::Receiver<Option<kube::Client>>;

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
