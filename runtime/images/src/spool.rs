//! Where a layer's bytes wait until all of them are there. A registry may take its time: what waits for it is
//! a file without a name and no thread, and only a whole layer takes one of the places for unpacking.
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::statvfs::fstatvfs;
use tokio::sync::mpsc;

use super::apply::ApplyError;
use super::layer::LayerError;
use super::pool::Pool;

/// Bytes that are written at once, where they come that fast.
const BATCH: usize = 1 << 20;

/// An empty file for one layer.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    pool: Arc<Pool>,
    /// Bytes that stay free on the file system.
    reserve: u64,
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Spool(source)
}

impl Spool {
    /// Makes the file; `folder` sees its name only for a moment.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) async fn new(
        folder: &Path,
        index: usize,
        pool: Arc<Pool>,
        reserve: u64,
    ) -> Result<Self, LayerError> {
        let path = folder.join(format!("{index}.blob"));
        let make = move || {
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        let file = pool.run(make).await.and_then(|made| made).map_err(failed)?;
        Ok(Self { file, pool, reserve })
    }

    /// Takes chunks until their sender is gone; returns the file, to be read from its beginning. When it
    /// fails, the sender sees that nobody takes more.
    ///
    /// # Errors
    /// When the disk is full or failing.
    pub(super) async fn fill(mut self, mut chunks: mpsc::Receiver<Bytes>) -> Result<File, LayerError> {
        while let Some(first) = chunks.recv().await {
            let mut batch = vec![first];
            let mut length = batch[0].len();
            while length < BATCH
                && let Ok(chunk) = chunks.try_recv()
            {
                length += chunk.len();
                batch.push(chunk);
            }
            let (mut file, reserve) = (self.file, self.reserve);
            let write = move || write(&mut file, &batch, reserve).map(|()| file);
            self.file = self.pool.run(write).await.map_err(failed)??;
        }
        self.file.rewind().map_err(failed)?;
        Ok(self.file)
    }
}

fn write(file: &mut File, batch: &[Bytes], reserve: u64) -> Result<(), LayerError> {
    let disk = fstatvfs(&*file).map_err(|errno| failed(errno.into()))?;
    let wanted: u64 = batch.iter().map(|chunk| chunk.len() as u64).sum();
    if disk.blocks_available().saturating_mul(disk.fragment_size()) < reserve.saturating_add(wanted) {
        return Err(LayerError::Apply(ApplyError::NoSpace(reserve)));
    }
    batch.iter().try_for_each(|chunk| file.write_all(chunk)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    async fn spool(folder: &Path, reserve: u64) -> Spool {
        let pool = Arc::new(Pool::new("test", 1).unwrap());
        Spool::new(folder, 0, pool, reserve).await.unwrap()
    }

    #[tokio::test]
    async fn what_has_come_is_read_from_its_beginning_and_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let (sink, chunks) = mpsc::channel(2);
        let send = async move {
            for number in 0..100_u8 {
                sink.send(Bytes::from(vec![number; 30_000])).await.unwrap();
            }
        };
        let spool = spool(folder.path(), 0).await;
        let ((), file) = tokio::join!(send, spool.fill(chunks));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut bytes = Vec::new();
        file.unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes.chunks(30_000).zip(0..).all(|(chunk, number)| chunk == vec![number; 30_000]));
        assert_eq!(bytes.len(), 3_000_000);
    }

    #[tokio::test]
    async fn the_reserve_stays_free_and_the_sender_hears_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (sink, chunks) = mpsc::channel(1);
        sink.send(Bytes::from_static(b"x")).await.unwrap();
        let error = spool(folder.path(), u64::MAX - 10).await.fill(chunks).await.unwrap_err();
        assert!(matches!(error, LayerError::Apply(ApplyError::NoSpace(_))), "{error}");
        sink.closed().await;
    }
}
