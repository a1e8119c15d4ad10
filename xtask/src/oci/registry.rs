//! A registry (CNCF distribution) on the host's loopback. Its folder is written directly in distribution's storage format, so that filling it takes no
//! upload; guests of QEMU's user network reach it at 10.0.2.2.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::network::free_tcp_port;

use super::Image;

/// A registry's folder, filled unless an earlier run has filled it whole; its name must follow what it is filled with.
///
/// # Errors
/// Those of `fill`, and when a folder cannot be made.
pub fn filled(folder: PathBuf, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if folder.join("docker").exists() {
        return Ok(folder);
    }
    let part = folder.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part)?;
    }
    std::fs::create_dir_all(&part)?;
    fill(&part)?;
    std::fs::rename(&part, &folder)?;
    Ok(folder)
}

/// A registry that runs; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Registry {
    /// Serves the images of `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve(program: &Path, folder: &Path) -> Result<Self> {
        Self::serve_at(program, folder, free_tcp_port()?)
    }

    /// Serves the images of `folder` at a port of loopback.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve_at(program: &Path, folder: &Path, port: u16) -> Result<Self> {
        let config = folder.join("registry.yaml");
        std::fs::write(&config, settings(folder, port))?;
        let log = std::fs::File::create(folder.join("registry.log"))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            // By default it looks for a collector of traces every few seconds.
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the registry")?;
        let mut registry = Self { child, port };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if registry.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
                bail!(
                    "the registry did not start: {}",
                    std::fs::read_to_string(folder.join("registry.log")).unwrap_or_default().trim()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(folder: &Path, port: u16) -> String {
    format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  maintenance:\n    readonly: {{enabled: true}}\n\
         http: {{addr: '127.0.0.1:{port}'}}\n",
        folder.display()
    )
}

/// Adds an image to a registry's folder; returns the manifest's digest in hex.
///
/// # Errors
/// When it cannot be written.
pub fn add(folder: &Path, image: &Image) -> Result<String> {
    let base = folder.join("docker/registry/v2");
    let repository = base.join("repositories").join(&image.repository);
    let blobs = image.blobs()?;
    let link = |path: &Path, hex: &str| -> Result<()> {
        std::fs::create_dir_all(path)?;
        Ok(std::fs::write(path.join("link"), format!("sha256:{hex}"))?)
    };
    for blob in &blobs {
        let path = base.join("blobs/sha256").join(&blob.hex[..2]).join(&blob.hex);
        std::fs::create_dir_all(&path)?;
        // Images share layers.
        if !path.join("data").exists() {
            std::fs::write(path.join("data"), &blob.bytes)?;
        }
        link(&repository.join("_layers/sha256").join(&blob.hex), &blob.hex)?;
    }
    let manifest = &blobs.last().context("an image without a manifest")?.hex;
    link(&repository.join("_manifests/revisions/sha256").join(manifest), manifest)?;
    for tag in &image.tags {
        let tag = repository.join("_manifests/tags").join(tag);
        link(&tag.join("current"), manifest)?;
        link(&tag.join("index/sha256").join(manifest), manifest)?;
    }
    Ok(manifest.clone())
}
