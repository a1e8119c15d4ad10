//! What a block device holds, told from its first blocks.

/// Bytes from the start of a device that [`probe`] wants to see.
pub const HEAD: usize = 128 << 10;

/// What lies on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeros (or the bytes of an erased flash) as far as one can see.
    Blank,
    Ext4 {
        label: String,
        size: u64,
    },
    Vfat {
        label: String,
    },
    Iso9660 {
        label: String,
    },
    /// Something else, named as well as possible.
    Other(&'static str),
}

impl Content {
    /// The file system's label.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Ext4 { label, .. } | Self::Vfat { label } | Self::Iso9660 { label } => Some(label),
            Self::Blank | Self::Other(_) => None,
        }
    }

    /// For messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Blank => "nothing",
            Self::Ext4 { .. } => "an ext4 file system",
            Self::Vfat { .. } => "a FAT file system",
            Self::Iso9660 { .. } => "an ISO 9660 file system",
            Self::Other(what) => what,
        }
    }
}

/// Tells what a device holds from its first [`HEAD`] bytes (fewer on a smaller device).
pub fn probe(head: &[u8]) -> Content {
    if head.iter().all(|b| *b == 0) || head.iter().all(|b| *b == 0xff) {
        return Content::Blank;
    }
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(1024 + 0x38, &[0x53, 0xef]) {
        return ext4(&head[1024..]);
    }
    if at(32769, b"CD001") {
        return Content::Iso9660 { label: text(head, 32768 + 40, 32) };
    }
    if at(510, &[0x55, 0xaa]) && at(82, b"FAT32") {
        return Content::Vfat { label: text(head, 71, 11) };
    }
    if at(510, &[0x55, 0xaa]) && (at(54, b"FAT12") || at(54, b"FAT16")) {
        return Content::Vfat { label: text(head, 43, 11) };
    }
    Content::Other(if at(512, b"EFI PART") || at(4096, b"EFI PART") {
        "a GPT"
    } else if at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        "an EROFS file system"
    } else if at(0, b"XFSB") {
        "an XFS file system"
    } else if at(0x10040, b"_BHRfS_M") {
        "a btrfs file system"
    } else if at(0, b"LUKS\xba\xbe") {
        "a LUKS volume"
    } else if at(536, b"LVM2") || at(24, b"LVM2") {
        "an LVM volume"
    } else if at(510, &[0x55, 0xaa]) {
        "an MBR or a boot sector"
    } else {
        "data of an unknown kind"
    })
}

fn ext4(superblock: &[u8]) -> Content {
    let number = |offset: usize| {
        let bytes = superblock.get(offset..offset + 4).and_then(|b| b.try_into().ok());
        u64::from(u32::from_le_bytes(bytes.unwrap_or_default()))
    };
    // Blocks above 32 bits count only with the 64bit feature.
    let high = if number(0x60) & 0x80 == 0 { 0 } else { number(0x150) };
    let block = 1024_u64 << number(0x18).min(6);
    let size = ((high << 32) | number(4)).saturating_mul(block);
    Content::Ext4 { label: text(superblock, 0x78, 16), size }
}

fn text(bytes: &[u8], offset: usize, length: usize) -> String {
    let field = bytes.get(offset..offset + length).unwrap_or_default();
    let field = field.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(field).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_file_systems_are_told_with_their_labels() {
        let mut head = vec![0; HEAD];
        assert_eq!(probe(&head), Content::Blank);
        head[70_000] = 1;
        assert_eq!(probe(&head), Content::Other("data of an unknown kind"));
        head[32769..32774].copy_from_slice(b"CD001");
        head[32808..32816].copy_from_slice(b"cidata  ");
        assert_eq!(probe(&head).label(), Some("cidata"));
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        head[1024 + 4..1024 + 8].copy_from_slice(&1000_u32.to_le_bytes());
        head[1024 + 0x18] = 2;
        head[1024 + 0x78..1024 + 0x7c].copy_from_slice(b"data");
        assert_eq!(probe(&head), Content::Ext4 { label: "data".into(), size: 4_096_000 });
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_probed_without_a_panic(mut bytes in proptest::collection::vec(0_u8.., 0..5000), magic in 0..3) {
            match magic {
                0 if bytes.len() > 0x43a => bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]),
                1 if bytes.len() > 512 => bytes[510..512].copy_from_slice(&[0x55, 0xaa]),
                _ => {}
            }
            probe(&bytes);
        }
    }
}
