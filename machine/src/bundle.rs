//! The index of the images shipped in the root image. Their layers lie unpacked in the verity-protected root, so a first boot unpacks
//! nothing; the runtime mounts them as overlay lower directories and lists them as pinned images.
use serde::{Deserialize, Serialize};

/// `index.json` of [`crate::paths::BUNDLE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BundleIndex {
    pub images: Vec<BundleImage>,
}

/// One shipped image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BundleImage {
    /// Full names with tag, such as [`crate::paths::KUBERNETES_IMAGE`].
    pub names: Vec<String>,
    /// `sha256:<hex>` of the OCI image config at `configs/<hex>.json`.
    pub config: String,
    /// `sha256:<hex>` diff ids, lowest first; each unpacked at `layers/<hex>/`.
    pub layers: Vec<String>,
    /// Unpacked size in bytes.
    pub size: u64,
}
