//! Images: names, the store of unpacked layers, pulls from registries, imports of archives, and the CRI's `ImageService` over them.
//!
//! A layer is unpacked once, below `<state>/layers/<key>/fs`, in overlayfs' own terms (whiteouts are 0/0 character devices), and
//! never changes afterwards. An image is a record in `<state>/images.redb` that names its layers. Images of the bundle are read from the
//! root image and never removed.
//!
//! A pull or an import works below `<state>/tmp`; what it made becomes visible by a rename after a sync, then by a commit of the
//! metadata. What a killed one left is removed when the store opens.
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::ImageConfiguration;

pub(crate) mod apply;
mod bundle;
mod collect;
mod db;
mod heal;
mod import;
mod intake;
pub(crate) mod layer;
mod measure;
mod pool;
mod reference;
pub(crate) mod registry;
mod service;
mod snapshot;
mod spool;
mod store;
pub(crate) mod tarball;
mod tree;
mod workspace;

pub use import::serve as serve_import;
pub use measure::Measured;
pub use reference::{Reference, ShortNames};
pub use registry::{PullError, chain};
pub use service::Service;
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

/// Credentials of one pull (`AuthConfig` of the CRI).
pub type Auth = machine::cri::AuthConfig;

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
