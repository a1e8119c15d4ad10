//! Layers that fuzz inputs describe line by line, so that what is tried are hostile archives and not broken checksums.
use std::io::Write as _;

use tar::{EntryType, Header};

/// The archive of an input. Its first line says how it is compressed: `gzip`, `zstd`, or anything else for not at all. Each other line
/// is an entry, its fields between `|`: kind, name, target of a link or text of a file, mode in octal, owner. Kinds: `f` file, `F` file
/// of so many zeros, `d` directory, `s` symlink, `h` hard link, `c`, `b` and `p` nodes (device `major:minor` instead of a target), `x` a
/// pax record (name, value) for the next entry, `g` one for all, `L` and `K` long name and link name for the next entry, `z` a
/// block of zeros, `!` a block with just these bytes.
#[must_use]
pub fn archive(input: &[u8]) -> Vec<u8> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let compression = lines.next().unwrap_or_default();
    let mut plain = Vec::new();
    for line in lines {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b'|').collect();
        entry(&mut plain, &fields);
    }
    compress(&plain, compression)
}

/// # Panics
/// Never: a vector takes everything.
fn compress(plain: &[u8], how: &[u8]) -> Vec<u8> {
    match how {
        b"gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain).and_then(|()| encoder.finish()).expect("gzip")
        }
        b"zstd" => zstd::encode_all(plain, 1).expect("zstd"),
        _ => plain.to_vec(),
    }
}

fn entry(out: &mut Vec<u8>, fields: &[&[u8]]) {
    let field = |index: usize| fields.get(index).copied().unwrap_or_default();
    let number = |index: usize, radix, most: u64| {
        let text = std::str::from_utf8(field(index)).unwrap_or_default();
        u64::from_str_radix(text, radix).unwrap_or_default().min(most)
    };
    let (name, target) = (field(1), field(2));
    let (kind, link, data) = match field(0) {
        b"f" => (EntryType::Regular, &b""[..], target.to_vec()),
        b"F" => (EntryType::Regular, &b""[..], vec![0; number(2, 10, 1 << 17) as usize]),
        b"d" => (EntryType::Directory, &b""[..], Vec::new()),
        b"s" => (EntryType::Symlink, target, Vec::new()),
        b"h" => (EntryType::Link, target, Vec::new()),
        b"c" => (EntryType::Char, &b""[..], Vec::new()),
        b"b" => (EntryType::Block, &b""[..], Vec::new()),
        b"p" => (EntryType::Fifo, &b""[..], Vec::new()),
        b"x" => (EntryType::XHeader, &b""[..], record(name, target)),
        b"g" => (EntryType::XGlobalHeader, &b""[..], record(name, target)),
        b"L" => (EntryType::GNULongName, &b""[..], name.to_vec()),
        b"K" => (EntryType::GNULongLink, &b""[..], name.to_vec()),
        b"z" => return out.resize(out.len() + 512, 0),
        b"!" => return block(out, name),
        _ => return,
    };
    let mut header = Header::new_gnu();
    let raw = header.as_mut_bytes();
    name.iter().take(100).zip(&mut raw[..100]).for_each(|(from, to)| *to = *from);
    link.iter().take(100).zip(&mut raw[157..257]).for_each(|(from, to)| *to = *from);
    header.set_entry_type(kind);
    header.set_mode(number(3, 8, 0o7777) as u32);
    header.set_uid(number(4, 10, 1 << 40));
    header.set_gid(number(4, 10, 1 << 40));
    header.set_mtime(1_000_000_000);
    header.set_size(data.len() as u64);
    if matches!(kind, EntryType::Char | EntryType::Block) {
        let text = std::str::from_utf8(target).unwrap_or_default();
        let (major, minor) = text.split_once(':').unwrap_or_default();
        // A GNU header has both numbers.
        let _ = header.set_device_major(major.parse().unwrap_or_default());
        let _ = header.set_device_minor(minor.parse().unwrap_or_default());
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    block(out, &data);
}

/// Gives each block that is a header its checksum.
pub fn mend_checksums(archive: &mut [u8]) {
    for block in archive.as_chunks_mut::<512>().0 {
        if block[257..262] == *b"ustar" {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

fn block(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// `<length> <key>=<value>\n`, its own length included.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}
