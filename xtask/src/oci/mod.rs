//! Container images for tests, built without a daemon: layers of files, a config, and the folder of a registry that serves them.
mod layer;
pub mod registry;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use layer::Layer;

/// An image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// Repository without a host, such as `e2e-test-images/busybox`.
    pub repository: String,
    pub tags: Vec<String>,
    pub layers: Vec<Layer>,
    /// OCI's `config` object: user, command, environment.
    pub config: Value,
}

/// Bytes named by their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    pub hex: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Takes the digest.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { hex: hex::encode(Sha256::digest(&bytes)), bytes }
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", self.hex), "size": self.bytes.len(),
        })
    }
}

impl Image {
    /// The blobs of the image, the manifest last.
    ///
    /// # Errors
    /// When a layer cannot be packed.
    pub fn blobs(&self) -> anyhow::Result<Vec<Blob>> {
        let mut blobs: Vec<Blob> =
            self.layers.iter().map(|layer| Ok(Blob::new(layer.pack()?))).collect::<anyhow::Result<_>>()?;
        let diff_ids: Vec<String> = blobs.iter().map(|blob| format!("sha256:{}", blob.hex)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            // Two images with the same content are still two: removing one must not remove the other.
            "comment": format!("{}:{}", self.repository, self.tags.join(",")),
        });
        let config = Blob::new(serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("config.v1+json"),
            "layers": blobs.iter().map(|blob| blob.descriptor("layer.v1.tar")).collect::<Vec<_>>(),
        });
        blobs.push(config);
        blobs.push(Blob::new(serde_json::to_vec(&manifest)?));
        Ok(blobs)
    }
}
