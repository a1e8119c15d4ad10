//! From layers' bytes, wherever they come from, to an image in the store: what pulls and imports share.
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};
use nix::unistd::{Gid, Uid, fchown};
use sha2::{Digest, Sha256};

use super::apply::{Applied, ApplyError};
use super::collect::Orphans;
use super::db::ImageRecord;
use super::layer::{LayerError, unpack};
use super::spool::Spool;
use super::store::io_error;
use super::workspace::Work;
use super::{Store, StoreError, Usage};
use node_kit::errors::Chain;

/// One image's layers on their way into the store.
#[derive(Debug)]
pub struct Intake {
    store: Store,
    work: Arc<Work>,
    diff_ids: Vec<String>,
}

/// An image but for its layers.
struct Finished {
    config_digest: String,
    config: Vec<u8>,
    tags: Vec<String>,
    digests: Vec<String>,
}

/// What became of a layer.
#[derive(Debug)]
pub enum Stored {
    Ready(String),
    /// It uses directories that only layers below describe; their owner and mode are still to be taken over.
    Leaning(PathBuf, Applied),
}

impl Intake {
    /// Begins an image of these layers, lowest first.
    ///
    /// # Errors
    /// When no working folder can be made.
    pub fn begin(store: &Store, diff_ids: Vec<String>) -> Result<Self, StoreError> {
        let chain = chain_keys(&diff_ids);
        let keys = diff_ids.iter().map(|d| own_key(d)).chain(chain);
        let pins = keys.map(|key| store.pin(&key).0).collect();
        let work = Work { pins, workspace: store.workspace()?, hopeless: false.into() };
        Ok(Self { work: Arc::new(work), store: store.clone(), diff_ids })
    }

    /// Says that trying again will not help: layers that no other image needs go when the last thread is
    /// done.
    pub fn give_up(&self) {
        self.work.hopeless.store(true, Ordering::Relaxed);
    }

    pub fn diff_id(&self, index: usize) -> &str {
        &self.diff_ids[index]
    }

    /// A layer that is in the store already.
    pub fn present(&self, index: usize) -> Option<String> {
        let keys = [own_key(&self.diff_ids[index]), chain_keys(&self.diff_ids)[index].clone()];
        keys.into_iter().find(|key| self.store.pin(key).1.is_some())
    }

    /// Where the bytes of a layer wait that says to be so large.
    ///
    /// # Errors
    /// When they are more than the whole layer may take, or the disk refuses.
    pub(super) async fn spool(&self, index: usize, size: u64) -> Result<Spool, LayerError> {
        let inner = &self.store.0;
        if size > inner.limits.bytes {
            return Err(LayerError::Apply(ApplyError::TooLarge {
                what: "the packed size",
                limit: inner.limits.bytes,
            }));
        }
        Spool::new(&self.work.workspace.path, index, inner.disk.clone(), inner.limits.reserve).await
    }

    /// Unpacks a layer and checks it, on a thread of its own: threads that others wait for must not take so
    /// long. Runs to its end, and holds the working folder until then, even when nobody waits any more.
    /// `reader` must not wait for anybody outside.
    ///
    /// # Errors
    /// When the bytes are not the layer's, or cannot be unpacked.
    pub async fn unpack(
        &self,
        index: usize,
        digest: Option<String>,
        reader: impl Read + Send + 'static,
    ) -> Result<Result<Stored, LayerError>, StoreError> {
        let (store, work) = (self.store.clone(), self.work.clone());
        let (diff_id, folder) = (self.diff_ids[index].clone(), work.workspace.path.join(index.to_string()));
        let failed =
            |why: &str| io_error("unpacking", Path::new("layer"))(std::io::Error::other(why.to_owned()));
        let Ok(slot) = store.0.unpackers.clone().acquire_owned().await else {
            return Err(failed("the store is closed"));
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        let unpacking = move || {
            let result = store.unpack_layer(&diff_id, digest.as_deref(), folder, reader);
            drop((work, slot));
            // Nobody may wait any more.
            let _ = tell.send(result);
        };
        if let Err(error) = std::thread::Builder::new().name("layer".into()).spawn(unpacking) {
            return Err(io_error("starting a thread for", Path::new("layer"))(error));
        }
        told.await.unwrap_or_else(|_| Err(failed("the thread panicked")))
    }

    /// Ends the image: settles the layers that lean on others, then makes it visible.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn finish(
        self,
        layers: Vec<Stored>,
        config_digest: String,
        config: Vec<u8>,
        tags: Vec<String>,
        digests: Vec<String>,
    ) -> Result<String, StoreError> {
        let disk = self.store.0.disk.clone();
        let work = disk.run(move || {
            let image = Finished { config_digest, config, tags, digests };
            let stored = self.store(layers, image);
            if stored.is_err() {
                self.give_up();
            }
            stored
        });
        work.await.unwrap_or_else(|error| Err(io_error("storing", Path::new("image"))(error)))
    }

    fn store(&self, layers: Vec<Stored>, image: Finished) -> Result<String, StoreError> {
        let Finished { config_digest, config, tags, digests } = image;
        let (mut keys, mut paths, mut size) = (Vec::new(), Vec::new(), config.len() as u64);
        for (layer, chain_key) in layers.into_iter().zip(chain_keys(&self.diff_ids)) {
            let key = match layer {
                Stored::Ready(key) => key,
                Stored::Leaning(folder, applied) => {
                    settle(&folder.join("fs"), &applied.implied, &paths)?;
                    let usage = Usage { bytes: applied.bytes, inodes: applied.inodes };
                    self.store.adopt_layer(&chain_key, &folder, usage)?;
                    chain_key
                }
            };
            size += self.store.pin(&key).1.ok_or_else(|| StoreError::Gone(config_digest.clone()))?;
            paths.push(self.store.layer_path(&key));
            keys.push(key);
        }
        let record = ImageRecord { id: config_digest.clone(), tags, digests, layers: keys, size };
        self.store.commit_image(record, config)?;
        // What earlier pulls left for a next try that never came.
        if let Err(error) = self.store.collect(Orphans::Old) {
            tracing::warn!(error = %Chain(&error), "remove layers that nothing needs");
        }
        Ok(config_digest)
    }
}

impl Store {
    fn unpack_layer(
        &self,
        diff_id: &str,
        digest: Option<&str>,
        folder: PathBuf,
        reader: impl Read,
    ) -> Result<Result<Stored, LayerError>, StoreError> {
        let root = folder.join("fs");
        std::fs::create_dir_all(&root).map_err(io_error("making", &root))?;
        let applied = match unpack(reader, digest, diff_id, &root, &self.0.limits) {
            Ok(applied) => applied,
            Err(error) => {
                self.discard(&folder)?;
                return Ok(Err(error));
            }
        };
        if !applied.implied.is_empty() {
            return Ok(Ok(Stored::Leaning(folder, applied)));
        }
        let key = own_key(diff_id);
        self.adopt_layer(&key, &folder, Usage { bytes: applied.bytes, inodes: applied.inodes })?;
        Ok(Ok(Stored::Ready(key)))
    }
}

/// The key of a layer that describes every directory it uses.
fn own_key(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").to_owned()
}

/// The keys of layers that lean on those below: by chain id (OCI image specification, "Layer ChainID").
fn chain_keys(diff_ids: &[String]) -> Vec<String> {
    let mut chain = String::new();
    let next = diff_ids.iter().map(|diff_id| {
        chain = if chain.is_empty() {
            diff_id.clone()
        } else {
            format!("sha256:{}", hex::encode(Sha256::digest(format!("{chain} {diff_id}"))))
        };
        format!("chain-{}", own_key(&chain))
    });
    next.collect()
}

/// Gives directories that a layer implies the owner and mode they have in the topmost layer below that has
/// them.
fn settle(root: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<(), StoreError> {
    for path in implied {
        let failed = |e: nix::errno::Errno| io_error("settling", path)(e.into());
        let Some((mode, uid, gid)) = below.iter().rev().find_map(|layer| look_up(layer, path)) else {
            continue;
        };
        let fd = resolve(root, path, OFlag::O_DIRECTORY | OFlag::O_RDONLY).map_err(failed)?;
        fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed)?;
        fchmodat(&fd, ".", Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink).map_err(failed)?;
    }
    Ok(())
}

fn look_up(layer: &Path, path: &Path) -> Option<(u32, u32, u32)> {
    let stat = fstat(resolve(layer, path, OFlag::O_PATH).ok()?).ok()?;
    let directory = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    directory.then_some((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid))
}

fn resolve(root: &Path, path: &Path, flags: OFlag) -> nix::Result<std::os::fd::OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&root, path, how)
}
