//! From binaries and packages to kernel, initramfs and verified root: what every format is made of.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::debian;
use crate::modules::ModuleTree;
use crate::rootfs::{self, Parts};
use crate::tree::Tree;
use crate::verity::{self, Compression, RootInfo};
use crate::{initramfs, wanted};

/// What a build starts from.
#[derive(Debug)]
pub struct Inputs {
    /// Folder with our static executables.
    pub binaries: PathBuf,
    /// The control plane's Go binary.
    pub kubernetes: Option<PathBuf>,
    /// Cache of Debian packages.
    pub cache: PathBuf,
    pub compression: Compression,
}

/// A built image's parts; `image.json` in the output folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub root: PathBuf,
    pub root_info: RootInfo,
    /// Kernel release, such as `6.12.117+deb12-amd64`.
    pub release: String,
    /// The part of the kernel command line that every boot needs.
    pub command_line: String,
}

impl Image {
    /// Reads `image.json` in `folder`.
    ///
    /// # Errors
    /// When there is none or it is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("image.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }
}

/// Builds kernel, initramfs and root into `out` and describes them in `out/image.json`.
///
/// # Errors
/// When a package, a binary or a tool is missing.
pub fn build(inputs: &Inputs, out: &Path) -> Result<Image> {
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let out = &out.canonicalize()?;
    let kernel_name = debian::kernel_package()?;
    let kernel_package = debian::fetch(&inputs.cache, &[&kernel_name])?;
    let packages = debian::fetch(&inputs.cache, debian::ROOT_PACKAGES)?;
    let release = kernel_name.trim_start_matches("linux-image-").to_owned();
    let module_folder = kernel_package.find(&format!("lib/modules/{release}"))?;
    let mut modules = ModuleTree::open(&module_folder)?;

    let kernel = out.join("vmlinuz");
    std::fs::copy(kernel_package.find(&format!("boot/vmlinuz-{release}"))?, &kernel)
        .context("copy the kernel")?;
    let boot = modules.subset(wanted::BOOT)?;
    let initramfs = out.join("initramfs");
    initramfs::build(&initramfs, &inputs.binaries.join("pintle-init"), &release, &module_folder, &boot)?;

    let all: Vec<&str> = wanted::BOOT.iter().chain(wanted::NODE).copied().collect();
    let subset = modules.subset(&all)?;
    let staging = tempfile::Builder::new().prefix("root-").tempdir_in(out)?;
    let tree = Tree::new(staging.path().join("root"))?;
    let parts = Parts {
        binaries: &inputs.binaries,
        kubernetes: inputs.kubernetes.as_deref(),
        packages: &packages,
        release: &release,
        module_folder: &module_folder,
        modules: &subset,
    };
    rootfs::fill(&tree, &parts).context("fill the root tree")?;
    let root = out.join("root.img");
    let root_info = verity::build(tree.root(), &root, inputs.compression)?;

    let command_line = format!("{} {}", root_info.command_line(), BASE_COMMAND_LINE);
    let image = Image { kernel, initramfs, root, root_info, release, command_line };
    std::fs::write(out.join("image.json"), serde_json::to_vec_pretty(&image)?)?;
    Ok(image)
}

/// A panic reboots after ten seconds; a machine without a person at it must not stay down.
const BASE_COMMAND_LINE: &str = "panic=10";
