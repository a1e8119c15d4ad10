//! Tar streams, plain or compressed, byte by byte: read or refused, in bounded memory. Checksums are put right, so that the bytes
//! behind them are met.
#![cfg_attr(feature = "libfuzzer", no_main)]
use std::io::Read;

use images::fuzzing::{TarReader, decompress};

fn stream(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    fuzz::layer::mend_checksums(&mut bytes);
    // What a compressed stream may come to is bounded by whoever applies it.
    let Ok(plain) = decompress(&bytes[..]) else { return };
    let mut tar = TarReader::new(plain.take(1 << 20));
    while let Ok(Some(entry)) = tar.next_entry() {
        if let Some(extents) = &entry.extents {
            assert!(extents.len() <= 1 << 14);
            let end = extents.iter().fold(0, |end, (offset, length)| {
                assert!(*offset >= end, "extents overlap: {extents:?}");
                offset + length
            });
            assert!(end <= entry.size);
        }
        let mut data = [0; 4096];
        while tar.read(&mut data).is_ok_and(|read| read > 0) {}
    }
}

fuzz::target!(stream);
