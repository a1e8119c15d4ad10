//! Images that no two of which share what makes them: with files of many owners and modes, links, devices and whiteouts.
use std::path::Path;

use anyhow::{Context, Result};
use qemu_tests::random::Random;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Folders of a layer of noise, and files in each.
const FOLDERS: usize = 4;
const FILES: usize = 8;
/// Bytes of the largest file.
const LARGEST: usize = 80_000;

/// An image as a registry has it.
#[derive(Debug, Clone)]
pub struct Image {
    /// With tag.
    pub name: String,
    /// Plain tars, lowest first.
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Image {
    /// Of a lowest layer and two more that only this image has.
    pub fn new(name: &str, lowest: &[u8], random: &mut Random) -> Result<Self> {
        let layers = vec![lowest.to_vec(), noise("lower", random)?, noise("upper", random)?];
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/node-inspector"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
        }))?;
        let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect::<Vec<_>>(),
        }))?;
        Ok(Self { name: name.into(), layers, config, manifest })
    }

    /// Its id.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// Adds it to a folder that is served as a registry.
    pub fn publish(&self, folder: &Path) -> Result<()> {
        let path = self.name.split_once('/').map_or(&*self.name, |(_, path)| path);
        let (repository, tag) = path.split_once(':').context("the image's tag")?;
        let repository = folder.join("v2").join(repository);
        let put = |kind: &str, name: &str, bytes: &[u8]| -> Result<()> {
            std::fs::create_dir_all(repository.join(kind))?;
            Ok(std::fs::write(repository.join(kind).join(name), bytes)?)
        };
        for blob in self.blobs() {
            put("blobs", &digest(blob), blob)?;
        }
        put("manifests", tag, &self.manifest)?;
        put("manifests", &digest(&self.manifest), &self.manifest)
    }

    /// Writes it as an OCI layout in a tar.
    pub fn archive(&self, archive: &Path) -> Result<()> {
        let mut tar = Builder::new(std::fs::File::create(archive)?);
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&self.manifest), "size": self.manifest.len(),
            "annotations": {"io.containerd.image.name": self.name},
        }]}))?;
        add(&mut tar, header(EntryType::Regular, 0o644, (0, 0)), "index.json", &index)?;
        for blob in self.blobs() {
            let path = format!("blobs/{}", digest(blob).replace(':', "/"));
            add(&mut tar, header(EntryType::Regular, 0o644, (0, 0)), &path, blob)?;
        }
        Ok(tar.into_inner()?.sync_all()?)
    }
}

/// A layer with an executable.
pub fn program(path: &Path) -> Result<Vec<u8>> {
    let content = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, header(EntryType::Directory, 0o1777, (0, 0)), "tmp/", &[])?;
    add(&mut tar, header(EntryType::Regular, 0o755, (0, 0)), "node-inspector", &content)?;
    Ok(tar.into_inner()?)
}

/// A layer of whatever layers can have.
fn noise(name: &str, random: &mut Random) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, header(EntryType::Directory, 0o755, (0, 0)), &format!("{name}/"), &[])?;
    for folder in 0..FOLDERS {
        let folder = format!("{name}/{folder}");
        let mut owner = || (random.below(3000) as u64, random.below(3000) as u64);
        add(&mut tar, header(EntryType::Directory, 0o2750, owner()), &format!("{folder}/"), &[])?;
        add(&mut tar, header(EntryType::Fifo, 0o640, owner()), &format!("{folder}/pipe"), &[])?;
        let mut device = header(EntryType::Char, 0o660, owner());
        device.set_device_major(1)?;
        device.set_device_minor(3)?;
        add(&mut tar, device, &format!("{folder}/null"), &[])?;
        add(&mut tar, header(EntryType::Regular, 0o600, (0, 0)), &format!("{folder}/.wh.gone"), &[])?;
        for file in 0..FILES {
            let bytes: Vec<u8> = (0..random.below(LARGEST)).map(|_| random.any() as u8).collect();
            let mode = [0o644, 0o4755, 0o600, 0o2711][random.below(4)];
            let owner = (random.below(3000) as u64, random.below(3000) as u64);
            add(&mut tar, header(EntryType::Regular, mode, owner), &format!("{folder}/{file}"), &bytes)?;
        }
        let link = |tar: &mut Builder<Vec<u8>>, kind, name: &str, to: &str| {
            tar.append_link(&mut header(kind, 0o777, (7, 8)), format!("{folder}/{name}"), to)
        };
        link(&mut tar, EntryType::Symlink, "soft", "../0/1")?;
        link(&mut tar, EntryType::Link, "hard", &format!("{folder}/1"))?;
    }
    Ok(tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, (uid, gid): (u64, u64)) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

fn add<W: std::io::Write>(
    tar: &mut Builder<W>,
    mut header: Header,
    path: &str,
    content: &[u8],
) -> Result<()> {
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).with_context(|| format!("add {path} to a tar"))
}
