//! A reader of tar streams that holds no more than bounded headers: ustar, GNU and pax with their long names,
//! xattrs and sparse maps. The `tar` crate decodes single headers; its own iterator reads long names and pax
//! records of any size into memory.
use std::io::{self, Read};

use tar::{EntryType, Header};

/// The most bytes of a long name or of a pax header.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most extents of a sparse file.
const MAX_EXTENTS: usize = 1 << 14;
const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
}

/// One entry, its data unread.
#[derive(Debug)]
pub struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, i64),
    /// Major and minor number.
    pub device: (u32, u32),
    /// Size of the file; more than the stream holds if it is sparse.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of what the stream holds of a sparse file.
    pub extents: Option<Vec<(u64, u64)>>,
}

/// Reads entries one after the other; `read` gives the data of the last one.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    left: u64,
    padding: u64,
}

#[derive(Debug, Default)]
struct Pax(Vec<(Vec<u8>, Vec<u8>)>);

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar: {}", what.into()))
}

impl<R: Read> TarReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next entry, or `None` at the archive's end.
    ///
    /// # Errors
    /// `InvalidData` for a malformed or unbounded header; `UnexpectedEof` for a cut stream.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let (mut name, mut link, mut pax) = (None, None, Pax::default());
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = field(&header.as_old().size, || header.entry_size())?;
            match header.entry_type() {
                EntryType::GNULongName => name = Some(trim(self.extension(size)?)),
                EntryType::GNULongLink => link = Some(trim(self.extension(size)?)),
                EntryType::XHeader => pax = Pax::parse(&self.extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                kind => return self.entry(&header, kind, name, link, &pax).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        name: Option<Vec<u8>>,
        link: Option<Vec<u8>>,
        pax: &Pax,
    ) -> io::Result<Entry> {
        let old = header.as_old();
        let stored = pax.number(b"size", || field(&old.size, || header.entry_size()))?;
        // The kernel's sizes are signed. What is beyond them would overflow with its padding.
        if i64::try_from(stored).is_err() {
            return Err(invalid(format!("entry of {stored} bytes, more than a file can have")));
        }
        let path = pax.get(b"path").map(<[u8]>::to_vec).or(name);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.get(b"linkpath").map(<[u8]>::to_vec).or(link);
        let link = link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let kind = match kind {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            other => return Err(invalid(format!("entry of unknown type {:?}", other.as_byte() as char))),
        };
        let small = |value: u64| u32::try_from(value).map_err(|_| invalid("owner out of range"));
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: field(&old.mode, || header.mode().map(u64::from))? as u32 & 0o7777,
            uid: small(pax.number(b"uid", || field(&old.uid, || header.uid()))?)?,
            gid: small(pax.number(b"gid", || field(&old.gid, || header.gid()))?)?,
            mtime: pax
                .get(b"mtime")
                .map_or_else(|| Ok((header.mtime().unwrap_or(0) as i64, 0)), timestamp)?,
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            size: stored,
            xattrs: pax.xattrs(),
            extents: None,
        };
        // A link's header may carry its target's size; only files have data (POSIX pax, "size").
        self.left = if kind == Kind::File { stored } else { 0 };
        self.padding = (BLOCK - self.left % BLOCK) % BLOCK;
        if header.entry_type() == EntryType::GNUSparse {
            self.old_sparse(header, &mut entry)?;
        } else if kind == Kind::File {
            self.pax_sparse(pax, &mut entry)?;
        }
        if kind != Kind::File {
            entry.size = 0;
        }
        Ok(entry)
    }

    /// The sparse map of GNU's own format: four extents in the header, more in blocks that follow it.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> io::Result<()> {
        let gnu = header.as_gnu().ok_or_else(|| invalid("sparse entry without a GNU header"))?;
        let mut extents = Vec::new();
        let mut add = |part: &tar::GnuSparseHeader| -> io::Result<()> {
            if part.is_empty() {
                return Ok(());
            }
            if extents.len() == MAX_EXTENTS {
                return Err(invalid("too many extents"));
            }
            extents.push((part.offset()?, part.length()?));
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(extended.as_mut_bytes())?;
            extended.sparse().iter().try_for_each(&mut add)?;
            more = extended.is_extended();
        }
        entry.size = gnu.real_size().map_err(|_| invalid("bad real size"))?;
        entry.extents = Some(check_extents(extents, entry.size, self.left)?);
        Ok(())
    }

    /// The sparse maps that pax headers carry: versions 0.1 (in the header) and 1.0 (before the data).
    fn pax_sparse(&mut self, pax: &Pax, entry: &mut Entry) -> io::Result<()> {
        let extents = if let Some(map) = pax.get(b"GNU.sparse.map") {
            let numbers = map.split(|b| *b == b',').map(decimal).collect::<io::Result<Vec<_>>>()?;
            pairs(&numbers)?
        } else if pax.get(b"GNU.sparse.major") == Some(b"1") {
            self.sparse_map_in_data()?
        } else {
            return Ok(());
        };
        if let Some(name) = pax.get(b"GNU.sparse.name") {
            entry.path = name.to_vec();
        }
        let size = pax.get(b"GNU.sparse.realsize").or_else(|| pax.get(b"GNU.sparse.size"));
        entry.size = decimal(size.ok_or_else(|| invalid("sparse file without its size"))?)?;
        entry.extents = Some(check_extents(extents, entry.size, self.left)?);
        Ok(())
    }

    fn sparse_map_in_data(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let (mut numbers, mut digits) = (Vec::new(), Vec::new());
        let mut expected = None;
        while expected != Some(numbers.len()) {
            let mut block = [0; BLOCK as usize];
            self.read_exact(&mut block)?;
            for byte in block {
                match byte {
                    b'\n' if expected.is_none() => {
                        let count = decimal(&digits)? as usize;
                        if count > MAX_EXTENTS {
                            return Err(invalid("too many extents"));
                        }
                        expected = Some(2 * count);
                        digits.clear();
                    }
                    b'\n' => {
                        numbers.push(decimal(&digits)?);
                        digits.clear();
                    }
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(invalid("bad sparse map")),
                }
                if expected == Some(numbers.len()) {
                    break;
                }
            }
        }
        pairs(&numbers)
    }

    /// A header block; `None` at the two zero blocks that end an archive, or at the end of the stream between
    /// entries.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum = |range: &[u8]| range.iter().map(|b| u32::from(*b)).sum::<u32>();
        let actual = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
        if header.cksum().ok() != Some(actual) {
            return Err(invalid("header checksum does not match"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(invalid(format!("extended header of {size} bytes, more than {MAX_EXTENSION}")));
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let mut data = vec![0; size as usize];
        self.read_exact(&mut data)?;
        Ok(data)
    }

    fn skip_data(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped == rest { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl Pax {
    /// Records of the form `<length> <key>=<value>\n`.
    fn parse(mut data: &[u8]) -> io::Result<Self> {
        let mut records = Vec::new();
        while !data.is_empty() && data[0] != 0 {
            let space =
                data.iter().take(20).position(|b| *b == b' ').ok_or_else(|| invalid("bad pax record"))?;
            let length = decimal(&data[..space])? as usize;
            let record = data.get(space + 1..length).filter(|r| r.last() == Some(&b'\n'));
            let record = record.ok_or_else(|| invalid("bad pax record"))?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| invalid("bad pax record"))?;
            records.push((record[..equals].to_vec(), record[equals + 1..record.len() - 1].to_vec()));
            data = &data[length..];
        }
        Ok(Self(records))
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_slice());
        found.filter(|v| !v.is_empty())
    }

    fn number(&self, key: &[u8], header: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
        self.get(key).map_or_else(header, decimal)
    }

    fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named = self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix(b"SCHILY.xattr.")?, v)));
        named.map(|(k, v)| (k.to_vec(), v.clone())).collect()
    }
}

/// A number of the header; an empty field, which some writers leave, is 0.
fn field(raw: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if raw.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { parse().map_err(|_| invalid("bad number")) }
}

fn trim(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
    name
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|t| t.parse().ok()).ok_or_else(|| invalid("bad number"))
}

/// Seconds with an optional fraction, such as `-1.25`.
fn timestamp(text: &[u8]) -> io::Result<(i64, i64)> {
    let text = std::str::from_utf8(text).map_err(|_| invalid("bad time"))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| invalid("bad time"))?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().map_err(|_| invalid("bad time"))?;
    if whole.starts_with('-') && nanos > 0 {
        let before = seconds.checked_sub(1).ok_or_else(|| invalid("bad time"))?;
        return Ok((before, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

fn pairs(numbers: &[u64]) -> io::Result<Vec<(u64, u64)>> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_EXTENTS {
        return Err(invalid("bad sparse map"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Extents must ascend, lie within the file, and be what the stream holds.
fn check_extents(extents: Vec<(u64, u64)>, size: u64, stored: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in &extents {
        if *offset < end {
            return Err(invalid("sparse extents overlap"));
        }
        end = offset.checked_add(*length).ok_or_else(|| invalid("bad sparse map"))?;
        sum = sum.saturating_add(*length);
    }
    if end > size || sum > stored {
        return Err(invalid("sparse extents exceed the file"));
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_of_either_sign() {
        assert_eq!(timestamp(b"1.25").unwrap(), (1, 250_000_000));
        assert_eq!(timestamp(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(timestamp(b"-3").unwrap(), (-3, 0));
        for bad in ["", "x", "1.x", "-9223372036854775808.5"] {
            assert!(timestamp(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_that_no_file_can_have_is_refused() {
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(u64::MAX - 100);
        header.set_cksum();
        let fault = TarReader::new(header.as_bytes().as_slice()).next_entry().unwrap_err();
        assert_eq!(fault.to_string(), "tar: entry of 18446744073709551515 bytes, more than a file can have");
    }
}
