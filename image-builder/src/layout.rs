//! What a root file system has in common with the images in it.
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use crate::tree::Tree;

/// nft's place in the tree.
pub const TOOL_NFT: &str = "usr/sbin/nft";
/// Links of a merged `/usr`.
pub const MERGED: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// Users that exist without a service of ours.
pub const PASSWD: &str =
    "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n";
/// Groups of [`PASSWD`].
pub const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Gives a shared temporary folder its usual mode.
///
/// # Errors
/// When the folder does not exist.
pub fn sticky(tree: &Tree, path: &str) -> Result<()> {
    std::fs::set_permissions(tree.root().join(path), PermissionsExt::from_mode(0o1777))
        .with_context(|| format!("set the mode of {path}"))
}
