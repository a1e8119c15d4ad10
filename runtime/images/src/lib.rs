//! Images: names, the store of unpacked layers, pulls from registries and imports of archives. No gRPC: the
//! runtime serves them by CRI.
//!
//! A layer is unpacked once, below `<state>/layers/<key>/fs`, in overlayfs' own terms (whiteouts are 0/0
//! character devices), and never changes afterwards. An image is a record in `<state>/images.redb` that names
//! its layers. Images of the bundle are read from the root image and never removed.
//!
//! A pull or an import works below `<state>/tmp`; what it made becomes visible by a rename after a sync, then
//! by a commit of the metadata. What a killed one left is removed when the store opens.
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::ImageConfiguration;

mod apply;
mod bundle;
mod collect;
mod db;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handle;
mod heal;
mod import;
mod intake;
mod layer;
mod measure;
mod pool;
mod reference;
mod registry;
mod snapshot;
mod spool;
mod store;
mod tarball;
mod tree;
mod workspace;

pub use handle::Images;
pub use import::PARALLEL as IMPORTS;
pub use measure::Measured;
pub use reference::{Reference, ShortNames};
pub use registry::PullError;
pub use store::{Store, StoreError};

/// An image as containers are made from it.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:<hex>` of the config.
    pub id: String,
    /// Full names with tag.
    pub repo_tags: Vec<String>,
    /// Full names with the manifest's digest.
    pub repo_digests: Vec<String>,
    pub config: ImageConfiguration,
    /// Unpacked size in bytes.
    pub size: u64,
    /// True for an image of the bundle, which cannot be removed.
    pub pinned: bool,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// A container's writable layer and what lies below it, as overlayfs wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Topmost first, the order of overlayfs' `lowerdir` and of repeated `lowerdir+`.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// What a container's writable layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// Credentials of one pull, as CRI's `AuthConfig` has them; what is empty is not given.
#[derive(Clone, Default)]
pub struct Auth {
    pub username: String,
    pub password: String,
    /// Both of them with a colon between, in base64.
    pub auth: String,
    /// The registry that they are for.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A ready bearer token.
    pub registry_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(..)")
    }
}

/// What the machine config says about images.
#[derive(Debug, Clone)]
pub struct Settings {
    pub registries: Vec<machine::config::Registry>,
    pub limits: Limits,
    /// How long a registry may give nothing, or next to nothing.
    pub patience: Duration,
    /// Ranges of the cluster's pods and services: no registry sends a pull to them.
    pub cluster: Vec<ipnet::IpNet>,
}

impl Settings {
    /// As the machine config's documents say.
    #[must_use]
    pub fn new(registries: Vec<machine::config::Registry>, runtime: &machine::config::Runtime) -> Self {
        let patience = Duration::from_secs(runtime.image_pull_progress_timeout_seconds.into());
        Self { registries, limits: runtime.into(), patience, cluster: Vec::new() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(Vec::new(), &machine::config::Runtime::default())
    }
}

/// What an image may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Unpacked bytes of one layer.
    pub bytes: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes that stay free on the state volume.
    pub reserve: u64,
}

impl From<&machine::config::Runtime> for Limits {
    fn from(runtime: &machine::config::Runtime) -> Self {
        Self {
            bytes: runtime.max_layer_bytes,
            entries: runtime.max_layer_entries,
            layers: runtime.max_image_layers as usize,
            reserve: 64 << 20,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&machine::config::Runtime::default())
    }
}
