//! The images shipped in the root image (see `machine::bundle`).
use std::path::Path;

use anyhow::{Context, Result};
use machine::bundle::{BundleImage, BundleIndex};
use machine::paths::{BUNDLE, KUBERNETES_IMAGE};
use sha2::{Digest, Sha256};

use crate::layout::{GROUP, MERGED, PASSWD, TOOL_NFT, sticky};
use crate::libraries::LIBRARY_FOLDER;
use crate::tree::Tree;

/// Name of the demo image, which `cargo xtask up` deploys.
pub const DEMO_IMAGE: &str = "pintle.dev/demo:v1";
/// Names that the one Kubernetes binary answers to.
pub const KUBERNETES_NAMES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "kubectl",
];

/// One image, about to be bundled: its layer lies unpacked at `layer` (a path in the root tree).
struct Image<'a> {
    name: &'a str,
    layer: &'a str,
    entrypoint: Option<&'a str>,
    user: Option<&'a str>,
}

/// Adds the Kubernetes image (if its binary is there) and the demo image to the root tree, and the index.
///
/// # Errors
/// When a file cannot be read or written.
pub fn add(tree: &Tree, kubernetes: Option<&Path>, demo: &Path, libraries: &[String]) -> Result<()> {
    let mut images = Vec::new();
    if let Some(binary) = kubernetes {
        let layer = staging("kubernetes");
        kubernetes_layer(tree, &layer, binary, libraries)
            .context("build the layer of the Kubernetes image")?;
        images.push(finish(
            tree,
            &Image { name: KUBERNETES_IMAGE, layer: &layer, entrypoint: None, user: None },
        )?);
    }
    let layer = staging("demo");
    tree.copy(demo, &format!("{layer}/pintle-demo"), 0o755)?;
    let image = Image {
        name: DEMO_IMAGE,
        layer: &layer,
        entrypoint: Some("/pintle-demo"),
        user: Some("65534:65534"),
    };
    images.push(finish(tree, &image)?);
    let index = serde_json::to_vec_pretty(&BundleIndex { images })?;
    tree.file(&format!("{}/index.json", bundle()), 0o644, &index)
}

fn bundle() -> &'static str {
    BUNDLE.trim_start_matches('/')
}

fn staging(name: &str) -> String {
    format!("{}/layers/{name}", bundle())
}

fn kubernetes_layer(tree: &Tree, layer: &str, binary: &Path, libraries: &[String]) -> Result<()> {
    tree.copy(binary, &format!("{layer}/usr/local/bin/kubernetes"), 0o755)?;
    for name in KUBERNETES_NAMES {
        tree.link("kubernetes", &format!("{layer}/usr/local/bin/{name}"))?;
    }
    // kube-proxy runs nft; the files are the root's own, stored once.
    tree.hard_link(TOOL_NFT, &format!("{layer}/{TOOL_NFT}"))?;
    for library in libraries {
        let path = format!("{LIBRARY_FOLDER}/{library}");
        tree.hard_link(&path, &format!("{layer}/{path}"))?;
    }
    tree.hard_link(crate::libraries::LOADER, &format!("{layer}/{}", crate::libraries::LOADER))?;
    for (link, target) in MERGED {
        tree.link(target, &format!("{layer}/{link}"))?;
    }
    tree.hard_link(
        "etc/ssl/certs/ca-certificates.crt",
        &format!("{layer}/etc/ssl/certs/ca-certificates.crt"),
    )?;
    for name in ["etc/services", "etc/protocols", "etc/nsswitch.conf"] {
        tree.hard_link(name, &format!("{layer}/{name}"))?;
    }
    tree.file(&format!("{layer}/etc/passwd"), 0o644, PASSWD.as_bytes())?;
    tree.file(&format!("{layer}/etc/group"), 0o644, GROUP.as_bytes())?;
    for folder in ["tmp", "var/lib/etcd", "etc/kubernetes", "run", "proc", "sys", "dev"] {
        tree.directory(&format!("{layer}/{folder}"))?;
    }
    sticky(tree, &format!("{layer}/tmp"))
}

/// Gives the layer its diff id's name and writes the image config.
fn finish(tree: &Tree, image: &Image<'_>) -> Result<BundleImage> {
    let folder = tree.root().join(image.layer);
    let (diff_id, size) = diff_id(&folder).with_context(|| format!("digest the layer of {}", image.name))?;
    std::fs::rename(&folder, tree.root().join(format!("{}/layers/{diff_id}", bundle())))?;
    let mut run = serde_json::json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
    });
    if let Some(entrypoint) = image.entrypoint {
        run["Entrypoint"] = serde_json::json!([entrypoint]);
    }
    if let Some(user) = image.user {
        run["User"] = user.into();
    }
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "pintle image-builder"}],
    }))?;
    let digest = hex::encode(Sha256::digest(&config));
    tree.file(&format!("{}/configs/{digest}.json", bundle()), 0o644, &config)?;
    Ok(BundleImage {
        names: vec![image.name.to_owned()],
        config: format!("sha256:{digest}"),
        layers: vec![format!("sha256:{diff_id}")],
        size,
    })
}

/// Digest of the layer as an uncompressed tar archive with fixed owners and times, and the size of its files.
fn diff_id(folder: &Path) -> Result<(String, u64)> {
    let mut archive = tar::Builder::new(Sha256::new());
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    let mut size = 0;
    for path in crate::digest::walk(folder)? {
        let meta = std::fs::symlink_metadata(&path)?;
        size += if meta.is_file() { meta.len() } else { 0 };
        archive.append_path_with_name(&path, path.strip_prefix(folder)?)?;
    }
    Ok((hex::encode(archive.into_inner()?.finalize()), size))
}
