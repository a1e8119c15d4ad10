//! A built image, as image-builder's `image.json` describes it.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// Kernel, initramfs and root of one build.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub root: PathBuf,
    /// The part of the kernel command line that every boot needs.
    pub command_line: String,
    pub root_info: RootInfo,
}

/// The root's identity.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootInfo {
    pub hash: String,
    pub uuid: String,
    pub size: u64,
}

impl Image {
    /// Reads `image.json` in `folder`.
    ///
    /// # Errors
    /// When there is none; `cargo xtask image` makes it.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("image.json");
        let text = std::fs::read(&path)
            .with_context(|| format!("read {}; build the image first", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }
}
