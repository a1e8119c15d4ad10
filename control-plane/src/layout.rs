//! Where the files go: kubeadm's layout, below a root that tests move.
use std::path::{Path, PathBuf};

/// The places that a pass writes to.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// `/` on a node.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The place of an absolute path of the node.
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or_else(|_| Path::new(path)))
    }
}

/// A file of the PKI folder, such as `etcd/server.crt`.
#[must_use]
pub fn pki(name: &str) -> String {
    format!("{}/{name}", machine::paths::KUBERNETES_PKI)
}

/// A kubeconfig's path: `/etc/kubernetes/<name>.conf`.
#[must_use]
pub fn kubeconfig(name: &str) -> String {
    format!("/etc/kubernetes/{name}.conf")
}

/// A static pod's manifest.
#[must_use]
pub fn manifest(name: &str) -> String {
    format!("{}/{name}.yaml", machine::paths::MANIFESTS)
}
