//! Layers: whatever an archive holds, nothing outside of the layer's root changes, the bounds hold, and what is unpacked is what
//! overlayfs and the runtime can use.
#![cfg_attr(feature = "libfuzzer", no_main)]
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use fuzz::sandbox::{ROOT, run};
use fuzz::tree::{is_directory, walk};
use runtime::fuzzing::{Limits, decompress, digest_of, unpack};

const LIMITS: Limits = Limits { bytes: 128 << 10, entries: 200, layers: 1, reserve: 0 };

fn unpacked(input: &[u8]) {
    let archive = fuzz::layer::archive(input);
    let mut plain = Vec::new();
    decompress(&archive[..])
        .and_then(|mut plainer| plainer.read_to_end(&mut plain))
        .expect("an archive of ours");
    let root = Path::new(ROOT);
    let result = unpack(&archive[..], Some(&digest_of(&archive)), &digest_of(&plain), root, &LIMITS);
    let (mut inodes, mut bytes) = (0, 0);
    walk(root, &mut |path, stat| {
        inodes += 1;
        bytes += stat.blocks() * 512;
        assert!(stat.len() <= LIMITS.bytes, "{path:?} has {} bytes", stat.len());
        let hides = stat.file_type().is_char_device() && stat.rdev() == 0;
        assert!(!hides || !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".wh.")));
    });
    assert!(inodes <= LIMITS.entries, "{inodes} inodes");
    assert!(bytes <= LIMITS.bytes + LIMITS.entries * 4096, "{bytes} bytes");
    let Ok(applied) = result else { return };
    assert!(applied.bytes <= LIMITS.bytes && applied.inodes >= inodes, "{applied:?} of {inodes} inodes");
    for path in &applied.implied {
        assert!(is_directory(root, path), "{path:?} is implied and missing");
    }
}

fuzz::target!(layer);

fn layer(input: &[u8]) {
    run(unpacked, input);
}
