//! The unified kernel image: kernel, initramfs and command line as sections behind systemd's EFI stub.
use anyhow::{Context, Result, ensure};

/// Readable, initialised data.
const CHARACTERISTICS: u32 = 0x4000_0040;
const SECTION_HEADER: usize = 40;

/// Appends sections to a PE executable.
///
/// # Errors
/// When the stub is no PE executable or its header has no room.
pub fn append(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut pe = stub.to_vec();
    let coff = read_u32(&pe, 0x3c)? as usize + 4;
    ensure!(pe.get(coff - 4..coff) == Some(b"PE\0\0"), "the EFI stub is no PE executable");
    let count = usize::from(read_u16(&pe, coff + 2)?);
    let optional = coff + 20;
    let table = optional + usize::from(read_u16(&pe, coff + 16)?);
    let section_alignment = read_u32(&pe, optional + 32)?;
    let file_alignment = read_u32(&pe, optional + 36)? as usize;
    let headers_end = read_u32(&pe, optional + 60)? as usize;
    let wanted = table + SECTION_HEADER * (count + sections.len());
    ensure!(wanted <= headers_end, "the EFI stub's header has no room for {} more sections", sections.len());
    let mut address = next_address(&pe, table, count, section_alignment)?;
    for (index, (name, content)) in sections.iter().enumerate() {
        pe.resize(pe.len().next_multiple_of(file_alignment), 0);
        let size = u32::try_from(content.len()).context("a section of 4 GiB")?;
        let raw = u32::try_from(content.len().next_multiple_of(file_alignment))?;
        let place = u32::try_from(pe.len()).context("a file of 4 GiB")?;
        let mut header = [0; SECTION_HEADER];
        header[..name.len()].copy_from_slice(name.as_bytes());
        for (at, value) in [(8, size), (12, address), (16, raw), (20, place), (36, CHARACTERISTICS)] {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let at = table + SECTION_HEADER * (count + index);
        pe[at..at + SECTION_HEADER].copy_from_slice(&header);
        pe.extend_from_slice(content);
        pe.resize(pe.len().next_multiple_of(file_alignment), 0);
        address = address.checked_add(size).context("sections of 4 GiB")?.next_multiple_of(section_alignment);
    }
    let total = u16::try_from(count + sections.len())?;
    pe[coff + 2..coff + 4].copy_from_slice(&total.to_le_bytes());
    pe[optional + 56..optional + 60].copy_from_slice(&address.to_le_bytes());
    Ok(pe)
}

/// The first address behind the existing sections.
fn next_address(pe: &[u8], table: usize, count: usize, alignment: u32) -> Result<u32> {
    let mut end = 0;
    for index in 0..count {
        let header = table + SECTION_HEADER * index;
        end = end.max(read_u32(pe, header + 12)?.saturating_add(read_u32(pe, header + 8)?));
    }
    ensure!(alignment.is_power_of_two(), "the EFI stub's section alignment is {alignment}");
    Ok(end.next_multiple_of(alignment))
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..at + 4).context("the EFI stub is cut off")?;
    Ok(u32::from_le_bytes(field.try_into()?))
}

fn read_u16(bytes: &[u8], at: usize) -> Result<u16> {
    let field = bytes.get(at..at + 2).context("the EFI stub is cut off")?;
    Ok(u16::from_le_bytes(field.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A PE header with one section and room for `room` more.
    fn stub(room: usize) -> Vec<u8> {
        let table = 0x80 + 4 + 20 + 112;
        let mut pe = vec![0; (table + SECTION_HEADER * (1 + room)).next_multiple_of(512)];
        pe[0x3c] = 0x80;
        pe[0x80..0x84].copy_from_slice(b"PE\0\0");
        pe[0x86] = 1;
        pe[0x94] = 112;
        let optional = 0x98;
        let headers = u32::try_from(table + SECTION_HEADER * (1 + room)).unwrap_or_default();
        for (at, value) in [(32, 4096_u32), (36, 512), (56, 8192), (60, headers)] {
            pe[optional + at..optional + at + 4].copy_from_slice(&value.to_le_bytes());
        }
        pe[table + 8..table + 12].copy_from_slice(&100_u32.to_le_bytes());
        pe[table + 12..table + 16].copy_from_slice(&4096_u32.to_le_bytes());
        pe
    }

    #[test]
    fn sections_are_found_where_the_header_says() -> Result<()> {
        let pe = append(&stub(2), &[(".cmdline", b"quiet"), (".linux", &[7; 5000])])?;
        let header = 0x80 + 4 + 20 + 112 + SECTION_HEADER * 2;
        assert_eq!(&pe[header..header + 6], b".linux");
        assert_eq!(read_u32(&pe, header + 12)?, 3 * 4096, "behind the first new section");
        let place = read_u32(&pe, header + 20)? as usize;
        assert_eq!(&pe[place..place + 5000], &[7; 5000]);
        assert_eq!(read_u16(&pe, 0x86)?, 3);
        Ok(())
    }

    #[test]
    fn a_full_header_is_refused() {
        assert!(append(&stub(1), &[(".a", b""), (".b", b"")]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = append(&bytes, &[(".cmdline", b"x")]);
        }
    }
}
