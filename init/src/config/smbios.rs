//! The config in the firmware's tables: an SMBIOS OEM string (type 11) `pintle.dev/config=…` with the YAML, or
//! `pintle.dev/config.base64=…`, which no hypervisor trips over.
use base64::Engine as _;

const PLAIN: &str = "pintle.dev/config=";
const BASE64: &str = "pintle.dev/config.base64=";
const OEM_STRINGS: u8 = 11;
const END: u8 = 127;

/// The config in an SMBIOS structure table (DSP0134 §6.1), if there is one.
pub fn find(table: &[u8]) -> Option<Vec<u8>> {
    let mut rest = table;
    loop {
        let (kind, strings, next) = structure(rest)?;
        if kind == END {
            return None;
        }
        let found =
            (kind == OEM_STRINGS).then(|| strings.split(|byte| *byte == 0).find_map(config)).flatten();
        if found.is_some() {
            return found;
        }
        rest = next;
    }
}

/// Type, strings (NUL between them) and what follows of the first structure.
fn structure(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, length) = (*bytes.first()?, usize::from(*bytes.get(1)?));
    let strings = bytes.get(length.max(4)..)?;
    let end = strings.windows(2).position(|pair| pair == [0, 0])?;
    Some((kind, &strings[..end], &strings[end + 2..]))
}

fn config(string: &[u8]) -> Option<Vec<u8>> {
    if let Some(text) = string.strip_prefix(BASE64.as_bytes()) {
        let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return base64::engine::general_purpose::STANDARD.decode(text).ok();
    }
    string.strip_prefix(PLAIN.as_bytes()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(strings: &[&str]) -> Vec<u8> {
        // A BIOS structure with a string, our OEM strings, and the end.
        let mut table = vec![0, 5, 0, 0, 1];
        table.extend(b"SeaBIOS\0\0");
        table.extend([OEM_STRINGS, 5, 1, 0, strings.len() as u8]);
        for string in strings {
            table.extend(string.as_bytes());
            table.push(0);
        }
        table.extend([0, END, 4, 2, 0, 0, 0]);
        table
    }

    #[test]
    fn a_config_is_found_among_other_strings() {
        let yaml = "kind: Machine\n";
        assert_eq!(find(&table(&["x=y", &format!("{PLAIN}{yaml}")])).unwrap(), yaml.as_bytes());
        let packed = base64::engine::general_purpose::STANDARD.encode(yaml);
        assert_eq!(find(&table(&[&format!("{BASE64}{packed}")])).unwrap(), yaml.as_bytes());
        assert_eq!(find(&table(&["x"])), None);
        assert_eq!(find(&table(&[&format!("{BASE64}!")])), None);
    }

    proptest::proptest! {
        #[test]
        fn no_table_panics(bytes: Vec<u8>, cut in 0_usize..60) {
            let _ = find(&bytes);
            let whole = table(&[PLAIN]);
            let _ = find(&whole[..cut.min(whole.len())]);
        }
    }
}
