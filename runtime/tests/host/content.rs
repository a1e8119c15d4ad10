//! Images made for a purpose, and a look at what became of them.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use machine::cri;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::random::Random;
use crate::ring::{Outcome, Ring, check, text};
use crate::tree::Tree;

/// `sha256:<hex>`
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer's tar, with whatever names a hostile one has.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn add(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let raw = header.as_mut_bytes();
        name.bytes().take(100).zip(&mut raw[..100]).for_each(|(from, to)| *to = from);
        link.bytes().take(100).zip(&mut raw[157..257]).for_each(|(from, to)| *to = from);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", 0o755, b"")
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, "", 0o644, data)
    }

    pub fn symlink(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Symlink, name, to, 0o777, b"")
    }

    pub fn link(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Link, name, to, 0o644, b"")
    }

    /// Gives the entry that begins at `at` another owner.
    pub fn owned(mut self, at: usize, uid: u64, gid: u64) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&self.0[at..at + 512]);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_cksum();
        self.0[at..at + 512].copy_from_slice(header.as_bytes());
        self
    }

    pub fn device(mut self, kind: EntryType, name: &str, major: u32, minor: u32) -> Self {
        let at = self.0.len();
        self = self.add(kind, name, "", 0o666, b"");
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&self.0[at..at + 512]);
        // A GNU header has both numbers.
        let _ = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
        header.set_cksum();
        self.0[at..at + 512].copy_from_slice(header.as_bytes());
        self
    }
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = std::io::Write::write_all(&mut encoder, data).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

/// What a registry serves of an image.
#[derive(Debug, Clone)]
pub struct Content {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Content {
    /// Of uncompressed layers, each served with gzip, and the `config` part of the image's config.
    pub fn new(tars: &[Vec<u8>], config: Value) -> Self {
        let diff_ids = tars.iter().map(|tar| digest_of(tar)).collect();
        Self::of(tars.iter().map(|tar| gzip(tar)).collect(), diff_ids, config)
    }

    /// Of layers as they are served.
    pub fn of(layers: Vec<Vec<u8>>, diff_ids: Vec<String>, config: Value) -> Self {
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest_of(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("config.v1+json", &config),
            "layers": layers.iter().map(|layer| describe("layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        Self { layers, config, manifest }
    }

    /// Parts of the paths of its layers.
    pub fn layer_paths(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest_of(layer)).collect()
    }
}

/// Tars of layers that no other image has, with files of many owners and modes, links, pipes, devices and whiteouts.
pub fn noise(seed: u64, layers: usize, files: usize, size: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut tars = Vec::new();
    for layer in 0..layers {
        let folder = format!("data/{layer}");
        let mut tar = Tar::default().dir("data/");
        let at = tar.0.len();
        tar = tar
            .add(EntryType::Directory, &format!("{folder}/"), "", 0o2750, b"")
            .owned(at, random.below(3000), random.below(3000))
            .symlink(&format!("{folder}/soft"), "../0/0")
            .add(EntryType::Fifo, &format!("{folder}/pipe"), "", 0o620, b"")
            .device(EntryType::Char, &format!("{folder}/null"), 1, 3)
            .file(&format!("{folder}/.wh.gone"), b"");
        for file in 0..files {
            let length = 1 + random.below(size) as usize;
            let bytes = random.bytes(length);
            let mode = *random.choose(&[0o644, 0o4755, 0o600, 0o2711]);
            let at = tar.0.len();
            tar = tar.add(EntryType::Regular, &format!("{folder}/{file}"), "", mode, &bytes).owned(
                at,
                random.below(3000),
                random.below(3000),
            );
        }
        tars.push(tar.link(&format!("{folder}/hard"), &format!("{folder}/0")).0);
    }
    tars
}

impl Ring {
    pub async fn pull(&self, name: &str, auth: Option<cri::AuthConfig>) -> Result<String, String> {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        let request = cri::PullImageRequest { image, auth, sandbox_config: None };
        Ok(self.images.clone().pull_image(request).await.map_err(text)?.into_inner().image_ref)
    }

    /// What the runtime says of an image, if it has it.
    pub async fn image(&self, name: &str) -> Result<Option<cri::Image>, String> {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        let request = cri::ImageStatusRequest { image, verbose: false };
        Ok(self.images.clone().image_status(request).await.map_err(text)?.into_inner().image)
    }

    /// Names of images that are not of the bundle.
    pub async fn image_names(&self) -> Result<Vec<String>, String> {
        let images = self.images.clone().list_images(cri::ListImagesRequest::default()).await;
        let images = images.map_err(text)?.into_inner().images;
        let pulled = images.into_iter().filter(|image| !image.pinned);
        Ok(pulled.flat_map(|image| image.repo_tags).collect())
    }

    pub async fn remove_image(&self, name: &str) -> Outcome {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        self.images.clone().remove_image(cri::RemoveImageRequest { image }).await.map(drop).map_err(text)
    }

    /// Bytes that images take.
    pub async fn image_bytes(&self) -> Result<u64, String> {
        let info = self.images.clone().image_fs_info(cri::ImageFsInfoRequest {}).await.map_err(text)?;
        let first = info.into_inner().image_filesystems.into_iter().next();
        Ok(first.and_then(|usage| usage.used_bytes).map_or(0, |bytes| bytes.value))
    }

    /// Where an image's layers lie unpacked, lowest first.
    pub async fn layers(&self, name: &str) -> Result<Vec<PathBuf>, String> {
        let image = Some(cri::ImageSpec { image: name.into(), ..Default::default() });
        let request = cri::ImageStatusRequest { image, verbose: true };
        let status = self.images.clone().image_status(request).await.map_err(text)?.into_inner();
        let info = status.info.get("info").ok_or_else(|| format!("{name} is not there"))?;
        let info: Value = serde_json::from_str(info).map_err(text)?;
        let layers = info["layers"].as_array().cloned().unwrap_or_default();
        Ok(layers.iter().filter_map(Value::as_str).map(PathBuf::from).collect())
    }

    /// Whether an image's layers hold what they were made of, no more and no less.
    pub async fn holds(&self, name: &str, tars: &[Vec<u8>]) -> Outcome {
        let paths = self.layers(name).await?;
        check(paths.len() == tars.len(), format!("{name}: {} layers", paths.len()))?;
        for (path, tar) in paths.iter().zip(tars) {
            let same = Tree::of_folder(path).and_then(|found| Tree::of_tar(tar)?.is(&found));
            same.map_err(|what| format!("{name}: {}: {what}", path.display()))?;
        }
        Ok(())
    }
}

/// A hash of everything below a folder: names, kinds, owners, modes, times and contents.
pub fn hash_tree(folder: &Path) -> Result<String, String> {
    let (mut hash, mut todo) = (Sha256::new(), vec![folder.to_path_buf()]);
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().map_err(text)?;
        let line = format!(
            "{path:?} {:o} {} {} {} {} {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.mtime(),
            stat.mtime_nsec()
        );
        hash.update(line);
        if stat.is_dir() {
            let mut names: Vec<PathBuf> =
                fs::read_dir(&path).map_err(text)?.flatten().map(|entry| entry.path()).collect();
            names.sort();
            todo.extend(names);
        } else if stat.is_file() {
            hash.update(fs::read(&path).map_err(text)?);
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// Nothing is under way, and of layers there are just so many, however long the clearing takes.
pub async fn settled(state: &Path, layers: usize) -> Outcome {
    let count = |name: &str| fs::read_dir(state.join(name)).map_or(0, Iterator::count);
    for _ in 0..200 {
        if count("tmp") == 0 && count("trash") == 0 && count("layers") == layers {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let counts = ["tmp", "trash", "layers"].map(|name| format!("{name}: {}", count(name)));
    Err(format!("something is left over ({}), and {layers} layers should be", counts.join(", ")))
}
