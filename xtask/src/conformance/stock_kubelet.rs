//! The stock kubelet in an image that puts it on a node, and the image of the pods it runs, served by a registry on the host.
use std::path::PathBuf;

use anyhow::{Context, Result};
use qemu_tests::stock_kubelet::{AGNHOST, INSTALLER};
use serde_json::json;

use super::HOST;
use super::images::{agnhost, agnhost_config, busybox, executables};
use super::programs::{Programs, Set};
use crate::artifacts::key;
use crate::debian::Packages;
use crate::oci::registry::{self, Registry};
use crate::oci::{Image, Layer};
use crate::{go, host};

/// Busybox and its shell; nsenter with its libraries, since busybox's cannot enter a cgroup namespace.
const PACKAGES: &[&str] =
    &["bash-static", "busybox-static", "libc6", "libpcre2-8-0", "libselinux1", "util-linux"];
const NSENTER: &str = "usr/bin/nsenter";
/// What the images are made of beside packages and programs.
const SOURCES: [&str; 4] = [
    include_str!("stock_kubelet.rs"),
    include_str!("images.rs"),
    include_str!("../oci/mod.rs"),
    include_str!("../oci/layer.rs"),
];

/// The registry with both images; it runs as long as this value.
#[derive(Debug)]
pub struct StockKubelet(Registry);

impl StockKubelet {
    /// Builds the kubelet and the images, and starts the registry.
    ///
    /// # Errors
    /// When a part does not build.
    pub fn prepare() -> Result<Self> {
        let folder = registry_folder(&Programs::build(Set::Kubelet)?)?;
        Ok(Self(Registry::serve(&go::build(&go::REGISTRY)?, &folder)?))
    }

    /// Where nodes pull from.
    #[must_use]
    pub fn mirror(&self) -> String {
        format!("http://{HOST}:{}", self.0.port)
    }
}

/// The folder of the registry; kept by its inputs.
fn registry_folder(programs: &Programs) -> Result<PathBuf> {
    let packages = Packages::fetch(PACKAGES)?;
    let mut inputs = vec![programs.folder.display().to_string(), packages.key.clone()];
    inputs.extend(SOURCES.map(str::to_owned));
    let folder = host::target().join("stock-kubelet").join(format!("registry-{}", key(&inputs)));
    registry::filled(folder, |part| {
        let busybox = busybox(&packages)?;
        let kubelet = executables(&packages, &[NSENTER])?.program("kubelet", &programs.program("kubelet"))?;
        registry::add(part, &image(INSTALLER, &[&busybox, &kubelet], json!({}))?)?;
        registry::add(part, &image(AGNHOST, &[&busybox, &agnhost(programs)?], agnhost_config())?)?;
        Ok(())
    })
}

/// An image by its full name.
fn image(name: &str, layers: &[&Layer], config: serde_json::Value) -> Result<Image> {
    let (_, path) = name.split_once('/').context("a host in the name")?;
    let (repository, tag) = path.rsplit_once(':').context("a tag in the name")?;
    Ok(Image {
        repository: repository.to_owned(),
        tags: vec![tag.to_owned()],
        layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        config,
    })
}
