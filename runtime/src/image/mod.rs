//! Images: names, the store of unpacked layers, pulls from registries, imports of archives, and the CRI's `ImageService` over them.
//!
//! A layer is unpacked once, below `<state>/layers/<key>/fs`, in overlayfs' own terms (whiteouts are 0/0 character devices), and
//! never changes afterwards. An image is a record in `<state>/images.redb` that names its layers. Images of the bundle are read from the
//! root image and never removed.
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

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
