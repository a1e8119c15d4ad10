//! Import of OCI layouts and docker archives. An archive names its blobs before or after they come, so they
//! are first written to a working folder, one file each, then unpacked like pulled layers.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio_util::io::SyncIoBridge;

use super::intake::{Intake, Stored};
use super::layer::decompress;
use super::registry::{MAX_CONFIG, Manifest, check_config, choose, digest_of};
use super::tarball::{Kind, TarReader};
use super::workspace::Workspace;
use super::{PullError, Reference, Store};

/// The most files of an archive.
const MAX_FILES: usize = 10_000;
/// The most imports at once.
pub const PARALLEL: usize = 2;
/// Annotations that carry an image's name in an OCI layout's index.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Files of an archive by their path in it.
#[derive(Debug)]
struct Archive {
    workspace: Workspace,
    files: HashMap<PathBuf, PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<LayoutManifest>,
}

#[derive(Deserialize)]
struct LayoutManifest {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// Bytes that may follow an archive's end.
const MAX_PADDING: u64 = 1 << 20;

impl Store {
    /// Imports every image of an OCI layout or docker archive (tar, plain or compressed); returns their
    /// names, or ids where an image has no name.
    ///
    /// # Errors
    /// When the archive is malformed or an image in it is; images before that one stay.
    pub async fn import(
        &self,
        archive: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    ) -> Result<Vec<String>, PullError> {
        let (store, mut bridge) = (self.clone(), SyncIoBridge::new(archive));
        let spooled = self.0.archives.run(move || {
            let spooled = Archive::spool(&store, &mut bridge)?;
            // A tar's padding: a socket that is closed before its end is read resets the connection, and the
            // client never hears the answer.
            let _ = io::copy(&mut bridge.take(MAX_PADDING), &mut io::sink());
            Ok::<_, PullError>(spooled)
        });
        let archive = spooled.await.map_err(|_| PullError::Panicked)??;
        if archive.files.contains_key(Path::new("manifest.json")) {
            self.import_docker(&archive).await
        } else {
            self.import_layout(&archive).await
        }
    }

    async fn import_docker(&self, archive: &Archive) -> Result<Vec<String>, PullError> {
        let images: Vec<DockerImage> = parse("manifest.json", &archive.read("manifest.json", MAX_CONFIG)?)?;
        let mut names = Vec::new();
        for image in images {
            let config = archive.read(&image.config, MAX_CONFIG)?;
            let layers = image.layers.iter().map(|layer| (layer.clone(), None)).collect();
            let tags = image.repo_tags.unwrap_or_default();
            names.extend(self.import_image(archive, config, layers, &tags, None).await?);
        }
        Ok(names)
    }

    async fn import_layout(&self, archive: &Archive) -> Result<Vec<String>, PullError> {
        let index: LayoutIndex = parse("index.json", &archive.read("index.json", MAX_CONFIG)?)?;
        let mut names = Vec::new();
        for entry in index.manifests {
            let tags: Vec<String> =
                NAMES.iter().find_map(|n| entry.annotations.get(*n)).cloned().into_iter().collect();
            let mut manifest = Manifest::parse(&archive.blob(&entry.digest)?, self.0.limits.layers)?;
            if let Manifest::Index(manifests) = &manifest {
                manifest = Manifest::parse(&archive.blob(&choose(manifests)?.digest)?, self.0.limits.layers)?;
            }
            let Manifest::Image { config, layers } = manifest else {
                return Err(PullError::Malformed("an index inside an index".into()));
            };
            let config = archive.blob(&config.digest)?;
            let layers = layers.into_iter().map(|l| (blob_path(&l.digest), Some(l.digest))).collect();
            names.extend(self.import_image(archive, config, layers, &tags, Some(&entry.digest)).await?);
        }
        Ok(names)
    }

    async fn import_image(
        &self,
        archive: &Archive,
        config: Vec<u8>,
        layers: Vec<(String, Option<String>)>,
        names: &[String],
        manifest: Option<&str>,
    ) -> Result<Vec<String>, PullError> {
        // A layout may name an image by its tag alone; that is no name to run it by.
        let references = names
            .iter()
            .map(|name| Reference::parse(name, self.short_names()))
            .collect::<Result<Vec<_>, _>>()?;
        let (_, diff_ids) = check_config(&config, layers.len())?;
        let intake = Intake::begin(self, diff_ids)?;
        let stored = self.import_layers(archive, &intake, layers).await;
        if stored.is_err() {
            intake.give_up();
        }
        let tags: Vec<String> =
            references.iter().filter(|r| r.digest.is_none()).map(Reference::to_string).collect();
        let digests = manifest
            .into_iter()
            .flat_map(|d| references.iter().map(move |r| format!("{}@{d}", r.repository())));
        let id = intake.finish(stored?, digest_of(&config), config, tags.clone(), digests.collect()).await?;
        Ok(if tags.is_empty() { vec![id] } else { tags })
    }

    async fn import_layers(
        &self,
        archive: &Archive,
        intake: &Intake,
        layers: Vec<(String, Option<String>)>,
    ) -> Result<Vec<Stored>, PullError> {
        let mut stored = Vec::new();
        for (index, (path, digest)) in layers.into_iter().enumerate() {
            stored.push(match intake.present(index) {
                Some(key) => Stored::Ready(key),
                None => {
                    let file = archive.open(&path)?;
                    let unpacked = intake.unpack(index, digest, file).await?;
                    unpacked.map_err(|source| PullError::Layer { digest: path, source })?
                }
            });
        }
        Ok(stored)
    }
}

impl Archive {
    /// Writes every file of the archive to a folder of its own, under numbers: names of the archive name
    /// nothing on disk.
    fn spool(store: &Store, reader: impl Read) -> Result<Self, PullError> {
        let broken = |e: io::Error| PullError::Malformed(format!("archive: {e}"));
        let mut archive = Self { workspace: store.workspace()?, files: HashMap::new() };
        let mut tar = TarReader::new(decompress(reader).map_err(broken)?);
        let mut links = Vec::new();
        let mut left = store.0.limits.bytes;
        while let Some(entry) = tar.next_entry().map_err(broken)? {
            let Some(path) = clean(Path::new(&*String::from_utf8_lossy(&entry.path))) else { continue };
            if archive.files.len() + links.len() >= MAX_FILES {
                return Err(PullError::Malformed(format!("archive: more than {MAX_FILES} files")));
            }
            match entry.kind {
                Kind::File if entry.extents.is_none() => {
                    if entry.size > left {
                        return Err(PullError::Malformed(format!(
                            "archive: more than {} bytes",
                            store.0.limits.bytes
                        )));
                    }
                    left -= entry.size;
                    let target = archive.workspace.path.join(archive.files.len().to_string());
                    let mut file = File::create_new(&target).map_err(broken)?;
                    io::copy(&mut tar, &mut file).map_err(broken)?;
                    archive.files.insert(path, target);
                }
                // Docker saves a layer that several images share once, and links to it.
                Kind::Symlink | Kind::HardLink => {
                    let link = PathBuf::from(&*String::from_utf8_lossy(&entry.link));
                    let base = if entry.kind == Kind::Symlink {
                        path.parent().unwrap_or(Path::new(""))
                    } else {
                        Path::new("")
                    };
                    links.extend(clean(&base.join(link)).map(|target| (path, target)));
                }
                _ => {}
            }
        }
        for (path, target) in links {
            if let Some(file) = archive.files.get(&target).cloned() {
                archive.files.insert(path, file);
            }
        }
        Ok(archive)
    }

    fn open(&self, path: &str) -> Result<File, PullError> {
        let missing = || PullError::Malformed(format!("archive: it has no file {path:?}"));
        let file = clean(Path::new(path)).and_then(|path| self.files.get(&path)).ok_or_else(missing)?;
        File::open(file).map_err(|e| PullError::Malformed(format!("archive: {path}: {e}")))
    }

    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        let read = self.open(path)?.take(most as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| PullError::Malformed(format!("archive: {path}: {e}")))?;
        if bytes.len() > most {
            return Err(PullError::Malformed(format!("archive: {path:?} is larger than {most} bytes")));
        }
        Ok(bytes)
    }

    /// A small blob, checked against its digest.
    fn blob(&self, digest: &str) -> Result<Vec<u8>, PullError> {
        let bytes = self.read(&blob_path(digest), MAX_CONFIG)?;
        let actual = digest_of(&bytes);
        if actual == digest {
            Ok(bytes)
        } else {
            Err(PullError::Digest { what: "archive".into(), expected: digest.into(), actual })
        }
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A path as a key: relative, without `.`; `..` climbs at most to the top.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => clean.push(part),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T, PullError> {
    serde_json::from_slice(bytes).map_err(|e| PullError::Malformed(format!("archive: {name}: {e}")))
}
