//! From a stream of (compressed) bytes to an unpacked, verified layer directory.
use std::io::{self, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Limits;
use super::apply::{Applied, ApplyError, apply};

/// The largest zstd window in powers of two: 32 MiB, four times what the format asks of decoders.
const ZSTD_WINDOW: u32 = 25;

/// Why a layer was not stored.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("{0}")]
    Apply(#[source] ApplyError),
    #[error("keeping the layer's bytes until all of them have come")]
    Spool(#[source] io::Error),
    #[error("reading the layer's bytes")]
    Read(#[source] io::Error),
    #[error("content is {actual} where the manifest says {expected}")]
    Digest { expected: String, actual: String },
    #[error("unpacked content is {actual} where the image's config says {expected}")]
    DiffId { expected: String, actual: String },
}

/// A reader that hashes what passes.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Wraps a reader so that it yields plain bytes of what may be gzip, zstd or plain: the bytes tell, media
/// types lie.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = [magic.first().copied(), magic.get(1).copied()];
    let whole = io::Cursor::new(magic.clone()).chain(reader);
    Ok(match (kind, magic.as_slice()) {
        ([Some(0x1f), Some(0x8b)], _) => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 << 10, whole)))
        }
        (_, [0x28, 0xb5, 0x2f, 0xfd]) => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

/// Unpacks a layer into the empty directory `root`; both digests are checked before this returns.
///
/// # Errors
/// When the bytes are not what they should be or cannot be unpacked; the caller removes `root`.
pub fn unpack(
    reader: impl Read,
    digest: Option<&str>,
    diff_id: &str,
    root: &Path,
    limits: &Limits,
) -> Result<Applied, LayerError> {
    let mut raw = Hashing::new(reader);
    let (applied, actual) = {
        let mut plain = Hashing::new(decompress(&mut raw).map_err(LayerError::Read)?);
        let applied = apply(&mut plain, root, limits).map_err(LayerError::Apply);
        // What follows the archive's end counts for the digests; a bomb behind it must not run for ever.
        let applied = applied?;
        let most = limits.bytes.saturating_sub(applied.bytes);
        let rest = io::copy(&mut plain.by_ref().take(most), &mut io::sink()).map_err(LayerError::Read)?;
        if rest == most && most > 0 {
            return Err(LayerError::Apply(ApplyError::TooLarge {
                what: "the unpacked size",
                limit: limits.bytes,
            }));
        }
        (applied, plain.digest())
    };
    io::copy(&mut raw, &mut io::sink()).map_err(LayerError::Read)?;
    if let Some(expected) = digest {
        let actual = raw.digest();
        if actual != expected {
            return Err(LayerError::Digest { expected: expected.into(), actual });
        }
    }
    if actual != diff_id {
        return Err(LayerError::DiffId { expected: diff_id.into(), actual });
    }
    Ok(applied)
}
