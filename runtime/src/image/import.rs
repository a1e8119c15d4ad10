//! Import of OCI layouts and docker archives. An archive names its blobs before or after they come, so they are first written
//! to a working folder, one file each, then unpacked like pulled layers.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
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
pub(super) const PARALLEL: usize = 2;
/// The pause after a client that could not be taken.
const AFTER_ERROR: Duration = Duration::from_millis(100);
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

/// Serves the import socket: one archive per connection, one JSON line in return. Does not end.
pub async fn serve(listener: UnixListener, store: Store) {
    serve_from(UnixListenerStream::new(listener), store).await;
}

async fn serve_from(mut clients: impl Stream<Item = io::Result<UnixStream>> + Unpin, store: Store) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(PARALLEL));
    // The semaphore is never closed, and a listener gives clients for ever.
    while let Ok(slot) = slots.clone().acquire_owned().await
        && let Some(client) = clients.next().await
    {
        let stream = match client {
            Ok(stream) => stream,
            // A client that was quick to go, or descriptors that others hold for now: either passes.
            Err(error) => {
                tracing::warn!(%error, "a client of the import socket was not taken");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let store = store.clone();
        tokio::spawn(async move {
            answer(stream, &store).await;
            drop(slot);
        });
    }
}

async fn answer(stream: UnixStream, store: &Store) {
    let (read, mut write) = stream.into_split();
    let line = match store.import(read).await {
        Ok(names) => serde_json::json!({ "names": names }),
        Err(error) => {
            tracing::warn!(%error, "an import failed");
            serde_json::json!({ "error": error.to_string() })
        }
    };
    if let Err(error) = write.write_all(format!("{line}\n").as_bytes()).await {
        tracing::debug!(%error, "the importing client did not wait for its answer");
    }
}

/// Bytes that may follow an archive's end.
const MAX_PADDING: u64 = 1 << 20;

impl Store {
    /// Imports every image of an OCI layout or docker archive (tar, plain or compressed); returns their names, or ids where an
    /// image has no name.
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
            // A tar's padding: a socket that is closed before its end is read resets the connection, and the client never hears the answer.
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
    /// Writes every file of the archive to a folder of its own, under numbers: names of the archive name nothing on disk.
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

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// EMFILE comes from what other clients have open, ECONNABORTED from a client that was quick to go.
    #[tokio::test(start_paused = true)]
    async fn the_import_socket_outlives_errors_of_accept() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), Path::new("/nonexistent"), Vec::new()).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let failed = |errno: Errno| Err(io::Error::from(errno));
        let script = [failed(Errno::EMFILE), failed(Errno::ECONNABORTED), failed(Errno::EINTR), Ok(server)];
        let clients = futures::stream::iter(script).chain(futures::stream::pending());
        let mut answer = String::new();
        let talk = async {
            client.shutdown().await.unwrap();
            client.read_to_string(&mut answer).await.unwrap();
        };
        tokio::select! {
            () = serve_from(clients, store) => panic!("the listener ended"),
            () = talk => {}
        }
        assert!(answer.contains("error"), "{answer}");
    }
}
