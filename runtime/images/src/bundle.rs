//! The images shipped in the root image.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use machine::bundle::{BundleImage, BundleIndex};

/// The bundle's images by id; empty where there is no bundle.
#[derive(Debug, Default)]
pub struct Bundle {
    root: PathBuf,
    pub images: BTreeMap<String, BundleImage>,
}

impl Bundle {
    /// Reads `index.json` below `root`.
    ///
    /// # Errors
    /// When the index is there and cannot be read or understood.
    pub fn open(root: &Path) -> io::Result<Self> {
        let index = match std::fs::read(root.join("index.json")) {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let index: BundleIndex = serde_json::from_slice(&index)?;
        let images = index.images.into_iter().map(|image| (image.config.clone(), image)).collect();
        Ok(Self { root: root.to_path_buf(), images })
    }

    /// The config of an image, as bytes.
    ///
    /// # Errors
    /// As read(2).
    pub fn config(&self, image: &BundleImage) -> io::Result<Vec<u8>> {
        std::fs::read(self.root.join("configs").join(format!("{}.json", hex_of(&image.config))))
    }

    /// Where an image's layers lie, lowest first.
    pub fn layers(&self, image: &BundleImage) -> Vec<PathBuf> {
        image.layers.iter().map(|layer| self.root.join("layers").join(hex_of(layer))).collect()
    }
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
