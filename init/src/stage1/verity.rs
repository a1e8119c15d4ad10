//! dm-verity over the root image: the kernel command line names root hash and size, the verity superblock behind the data the rest.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::paths;
use uuid::Uuid;

use crate::cmdline;

const BLOCK: u32 = 4096;
const DEVICE: &str = "pintle-root";

/// The root as the kernel command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSpec {
    pub uuid: Uuid,
    /// Lower-case hex of a SHA-256 root hash.
    hash: String,
    /// Size of the data in bytes; the verity superblock follows.
    size: u64,
}

impl RootSpec {
    /// Reads `pintle.root.*`.
    ///
    /// # Errors
    /// When one of them is missing or malformed.
    pub fn from_cmdline(line: &str) -> Result<Self> {
        let value = |key| {
            cmdline::value(line, key).with_context(|| {
                format!("the kernel command line lacks {key}=; take it from the image's build")
            })
        };
        let uuid = value(paths::CMDLINE_ROOT_UUID)?;
        let hash = value(paths::CMDLINE_ROOT_HASH)?.to_ascii_lowercase();
        let size = value(paths::CMDLINE_ROOT_SIZE)?;
        ensure!(
            hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
            "{} is no SHA-256 in hex",
            paths::CMDLINE_ROOT_HASH
        );
        let size: u64 = size.parse().with_context(|| format!("{} is no number", paths::CMDLINE_ROOT_SIZE))?;
        ensure!(
            size > 0 && size.is_multiple_of(u64::from(BLOCK)),
            "{} is no multiple of {BLOCK}",
            paths::CMDLINE_ROOT_SIZE
        );
        let uuid = uuid.parse().with_context(|| format!("{} is no UUID", paths::CMDLINE_ROOT_UUID))?;
        Ok(Self { uuid, hash, size })
    }
}

/// Opens `device` with dm-verity and reads through it once; returns the verified device.
///
/// # Errors
/// When the image does not belong to the root hash, or the kernel refuses the table.
pub fn open(spec: &RootSpec, device: &Path) -> Result<PathBuf> {
    let mut superblock = [0_u8; 512];
    let file = File::open(device)?;
    file.read_exact_at(&mut superblock, spec.size).context("read the verity superblock behind the data")?;
    let table = table(spec, &superblock, &device.display().to_string())?;
    let mapper = sys::dm::DeviceMapper::open().context("open /dev/mapper/control")?;
    let minor = mapper
        .create_read_only(DEVICE, spec.size / 512, "verity", &table)
        .context("make the dm-verity device")?;
    let opened = PathBuf::from(format!("/dev/dm-{minor}"));
    let checked = check(&opened, spec);
    if let Err(error) = checked {
        if let Err(error) = mapper.remove(DEVICE) {
            tracing::warn!("remove the refused dm-verity device: {error}");
        }
        return Err(error);
    }
    Ok(opened)
}

/// Reads the file system's superblock through the tree, so a wrong root hash shows now and not in the middle of a mount.
fn check(device: &Path, spec: &RootSpec) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !device.exists() {
        ensure!(Instant::now() < deadline, "{} does not appear", device.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut block = vec![0_u8; BLOCK as usize];
    let file = File::open(device).with_context(|| format!("open {}", device.display()))?;
    if let Err(error) = file.read_exact_at(&mut block, 0) {
        bail!("its content does not match the root hash {} ({error})", spec.hash);
    }
    Ok(())
}

/// dm-verity's target line. The number of blocks comes from the (signed or typed) command line, not from the superblock, which nothing
/// vouches for; salt and tree are vouched for by the root hash.
fn table(spec: &RootSpec, superblock: &[u8; 512], device: &str) -> Result<String> {
    let number = |at: usize| u32::from_le_bytes(superblock[at..at + 4].try_into().unwrap_or_default());
    ensure!(superblock[..8] == *b"verity\0\0", "no verity superblock behind the data");
    ensure!(number(8) == 1 && number(12) == 1, "verity superblock of an unknown version");
    let algorithm = superblock[32..64].split(|b| *b == 0).next().unwrap_or_default();
    ensure!(algorithm == b"sha256", "verity hash is not sha256");
    ensure!(number(64) == BLOCK && number(68) == BLOCK, "verity block size is not {BLOCK}");
    let salt_size = usize::from(u16::from_le_bytes([superblock[80], superblock[81]]));
    ensure!(salt_size <= 256, "verity salt is too long");
    let salt: String = superblock[88..88 + salt_size].iter().map(|b| format!("{b:02x}")).collect();
    let blocks = spec.size / u64::from(BLOCK);
    Ok(format!(
        "1 {device} {device} {BLOCK} {BLOCK} {blocks} {} sha256 {} {}",
        blocks + 1,
        spec.hash,
        if salt.is_empty() { "-" } else { &salt }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RootSpec {
        RootSpec { uuid: Uuid::nil(), hash: "ab".repeat(32), size: 8192 }
    }

    fn superblock() -> [u8; 512] {
        let mut block = [0; 512];
        block[..8].copy_from_slice(b"verity\0\0");
        block[8] = 1;
        block[12] = 1;
        block[32..38].copy_from_slice(b"sha256");
        block[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        block[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        block[72] = 99;
        block[80] = 2;
        block[88..90].copy_from_slice(&[0xca, 0xfe]);
        block
    }

    #[test]
    fn the_table_takes_the_block_count_from_the_command_line() {
        let table = table(&spec(), &superblock(), "/dev/vda").unwrap();
        assert_eq!(table, format!("1 /dev/vda /dev/vda 4096 4096 2 3 sha256 {} cafe", "ab".repeat(32)));
    }

    #[test]
    fn a_weak_hash_and_a_missing_superblock_are_refused() {
        let mut weak = superblock();
        weak[32..38].copy_from_slice(b"sha1\0\0");
        assert!(table(&spec(), &weak, "/dev/vda").is_err());
        assert!(table(&spec(), &[0; 512], "/dev/vda").is_err());
    }

    #[test]
    fn a_command_line_without_a_proper_root_is_refused() {
        let good = format!(
            "pintle.root.hash={} pintle.root.uuid=6f1c3f0e-0000-4000-8000-000000000001 pintle.root.size=4096",
            "0f".repeat(32)
        );
        assert_eq!(RootSpec::from_cmdline(&good).unwrap().size, 4096);
        for bad in [good.replace("size=4096", "size=4095"), good.replace("hash=0f", "hash=xf"), String::new()]
        {
            assert!(RootSpec::from_cmdline(&bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_superblock_is_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 512)) {
            let mut block = superblock();
            block[64..].copy_from_slice(&bytes[64..]);
            let _ = table(&spec(), &block, "/dev/vda");
            let _ = table(&spec(), &bytes.try_into().unwrap(), "/dev/vda");
        }
    }
}
