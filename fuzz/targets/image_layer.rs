//! Layers: whatever an archive holds, nothing outside of the layer's root changes, and the bounds hold.
#![cfg_attr(feature = "libfuzzer", no_main)]
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fuzz::sandbox::{ROOT, run};
use fuzz::tree::{is_directory, walk};
use images::fuzzing::{Limits, decompress, digest_of, unpack};

const LIMITS: Limits = Limits { bytes: 128 << 10, entries: 200, layers: 1, reserve: 0 };
/// What an accepted stream may come to: data, as much behind the archive's end, headers.
const MOST_PLAIN: u64 = 2 * LIMITS.bytes + LIMITS.entries * (16 << 10);

fn unpacked(input: &[u8]) {
    let archive = fuzz::layer::archive(input);
    let mut plain = Vec::new();
    decompress(&archive[..]).and_then(|mut reader| reader.read_to_end(&mut plain)).expect("our own archive");
    let root = Path::new(ROOT);
    let result = unpack(&archive[..], Some(&digest_of(&archive)), &digest_of(&plain), root, &LIMITS);
    let (mut inodes, mut bytes) = (0, 0);
    walk(root, &mut |path, stat| {
        (inodes, bytes) = (inodes + 1, bytes + stat.blocks() * 512);
        assert!(stat.len() <= LIMITS.bytes, "{path:?} has {} bytes", stat.len());
    });
    assert!(inodes <= LIMITS.entries, "{inodes} inodes");
    assert!(bytes <= LIMITS.bytes + LIMITS.entries * 4096, "{bytes} bytes");
    let Ok(applied) = result else { return };
    assert!(plain.len() as u64 <= MOST_PLAIN, "a stream of {} bytes", plain.len());
    assert!(applied.bytes <= LIMITS.bytes && applied.inodes >= inodes, "{applied:?} of {inodes} inodes");
    for path in &applied.implied {
        assert!(is_directory(root, path), "{path:?} is implied and missing");
    }
}

fuzz::target!(layer);

fn layer(input: &[u8]) {
    run(unpacked, input);
}
