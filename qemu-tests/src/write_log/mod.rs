//! A log of everything that was written to a disk, as QEMU's `blklogwrites` keeps it (the format of Linux' dm-log-writes), and the disk made
//! from it as a power cut would have left it. Killing QEMU leaves what the guest never flushed in the host's page cache; this does not.
mod cut;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

pub use cut::{Cut, Fate};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Of what comes before the data in each entry.
const HEADER: usize = 32;
const CHUNK: usize = 1 << 20;

/// One request to the disk, in the order in which they were done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins on the disk, in bytes.
    pub at: u64,
    /// How many bytes it covers.
    pub length: u64,
    /// What was written before it is on the disk.
    pub flush: bool,
    /// It is on the disk itself.
    pub fua: bool,
    /// The bytes were given back instead of written.
    pub discard: bool,
    /// Where its data lie in the log.
    data: u64,
}

/// A log that may still be written to.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    /// In which the log counts, in bytes.
    sector: u64,
    pub entries: Vec<Entry>,
}

/// How many entries a log says it has, and the size of its sectors.
fn superblock(bytes: &[u8]) -> Result<(u64, u64)> {
    ensure!(word(bytes, 0) == MAGIC, "it does not begin like one");
    ensure!(word(bytes, 8) == VERSION, "its version is {}", word(bytes, 8));
    let sector = word(bytes, 24) & 0xffff_ffff;
    ensure!(sector.is_power_of_two() && sector >= 512, "its sectors have {sector} bytes");
    Ok((word(bytes, 16), sector))
}

/// The entry with this header, which ends at `end` of the log, and where the next one begins.
fn entry(header: &[u8], end: u64, sector: u64) -> Result<(Entry, u64)> {
    let (flags, inline) = (word(header, 16), word(header, 24));
    ensure!(flags & !(FLUSH | FUA | DISCARD | MARK) == 0, "flags {flags:#x}");
    let bytes = |sectors: u64| sectors.checked_mul(sector).context("more than fits on any disk");
    let (at, length) = (bytes(word(header, 0))?, bytes(word(header, 8))?);
    ensure!(inline <= sector - HEADER as u64, "{inline} bytes of text in a sector of {sector}");
    let is = |flag: u64| flags & flag != 0;
    let entry = Entry { at, length, flush: is(FLUSH), fua: is(FUA), discard: is(DISCARD), data: end };
    let held = if entry.discard { 0 } else { length };
    Ok((entry, end.checked_add(held).context("an endless entry")?))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl WriteLog {
    /// Reads what the log has so far; data are left where they are.
    ///
    /// # Errors
    /// When it cannot be read or is no such log.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let log = || format!("{} is no log of writes", path.display());
        let mut start = [0; HEADER];
        file.read_exact_at(&mut start, 0).with_context(log)?;
        let (count, sector) = superblock(&start).with_context(log)?;
        let (mut entries, mut at) = (Vec::new(), sector);
        for number in 0..count {
            let mut header = [0; HEADER];
            let read = file.read_exact_at(&mut header, at).map_err(anyhow::Error::from);
            let parsed = read.and_then(|()| entry(&header, at + sector, sector));
            let (entry, next) =
                parsed.with_context(|| format!("read entry {number} of {count} of {}", path.display()))?;
            entries.push(entry);
            at = next;
        }
        Ok(Self { file, sector, entries })
    }

    /// How many entries a log has by now.
    ///
    /// # Errors
    /// As [`WriteLog::open`].
    pub fn count(path: &Path) -> Result<usize> {
        let mut start = [0; HEADER];
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        file.read_exact_at(&mut start, 0)?;
        let (count, _) =
            superblock(&start).with_context(|| format!("{} is no log of writes", path.display()))?;
        Ok(usize::try_from(count)?)
    }

    /// Makes the disk of this size as a power cut leaves it.
    ///
    /// # Errors
    /// When the log cannot be read or the disk not be written.
    pub fn make_disk(&self, cut: &Cut, size: u64, disk: &Path) -> Result<()> {
        let out = File::create(disk).with_context(|| format!("create {}", disk.display()))?;
        out.set_len(size).context("size the disk")?;
        for (entry, fate) in self.entries.iter().zip(cut.fates(&self.entries, self.sector)) {
            let length = match fate {
                Fate::Kept => entry.length,
                Fate::Torn(bytes) => bytes,
                Fate::Lost => 0,
            };
            self.write(entry, length, &out)
                .with_context(|| format!("write {length} bytes at {} of {}", entry.at, disk.display()))?;
        }
        Ok(())
    }

    fn write(&self, entry: &Entry, length: u64, out: &File) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < length {
            let part = buffer.len().min(usize::try_from(length - done).unwrap_or(CHUNK));
            // What a disk gives back for discarded bytes is up to it.
            if entry.discard {
                buffer[..part].fill(0xd1);
            } else {
                self.file.read_exact_at(&mut buffer[..part], entry.data + done)?;
            }
            out.write_all_at(&buffer[..part], entry.at + done)?;
            done += part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: [u64; 4]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A log of requests: sector, sectors, flags, and the byte that its data are made of.
    fn log(requests: &[(u64, u64, u64, u8)]) -> tempfile::NamedTempFile {
        let mut bytes = words([MAGIC, VERSION, requests.len() as u64, 512]);
        bytes.resize(512, 0);
        for (sector, sectors, flags, byte) in requests {
            let header = bytes.len();
            bytes.extend(words([*sector, *sectors, *flags, 0]));
            bytes.resize(header + 512, 0);
            if flags & DISCARD == 0 {
                bytes.resize(bytes.len() + (sectors * 512) as usize, *byte);
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    /// The first byte of each sector of the disk that a cut leaves.
    fn disk(log: &tempfile::NamedTempFile, cut: &Cut) -> Vec<u8> {
        let out = tempfile::NamedTempFile::new().unwrap();
        WriteLog::open(log.path()).unwrap().make_disk(cut, 8 * 512, out.path()).unwrap();
        std::fs::read(out.path()).unwrap().chunks(512).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_not_flushed_is_gone_unless_it_was_forced() {
        let log = log(&[(0, 2, 0, 1), (0, 0, FLUSH, 0), (1, 1, 0, 2), (3, 1, FUA, 3), (4, 1, 0, 4)]);
        assert_eq!(WriteLog::count(log.path()).unwrap(), 5);
        assert_eq!(disk(&log, &Cut::strict(5)), [1, 1, 0, 3, 0, 0, 0, 0]);
        assert_eq!(disk(&log, &Cut::strict(2)), [1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(disk(&log, &Cut::strict(1)), [0; 8]);
    }

    #[test]
    fn data_are_found_behind_entries_without_any() {
        let log = log(&[(0, 4, 0, 1), (1, 2, DISCARD, 0), (5, 1, 0, 5), (0, 0, FLUSH, 0)]);
        assert_eq!(disk(&log, &Cut::strict(4)), [1, 0xd1, 0xd1, 1, 0, 5, 0, 0]);
    }

    #[test]
    fn a_later_write_wins_when_both_are_kept() {
        let log = log(&[(0, 2, 0, 1), (1, 1, 0, 2), (0, 0, FLUSH, 0)]);
        assert_eq!(disk(&log, &Cut::strict(3))[..3], [1, 2, 0]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 4096]).unwrap();
        assert!(WriteLog::open(file.path()).is_err());
        let torn = log(&[(0, 1, 0, 1)]);
        std::fs::write(torn.path(), &std::fs::read(torn.path()).unwrap()[..520]).unwrap();
        assert!(WriteLog::open(torn.path()).is_err());
        for bad in [[0, 1, 16, 0], [u64::MAX, 1, 0, 0], [0, u64::MAX, 0, 0], [0, 0, MARK, 500]] {
            assert!(entry(&words(bad), 1024, 512).is_err(), "{bad:?}");
        }
    }
}
