//! Which shared libraries an executable needs.
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use object::read::elf::{Dyn, FileHeader};

use crate::debian::Packages;

/// Where Debian keeps 64-bit libraries.
pub const LIBRARY_FOLDER: &str = "usr/lib/x86_64-linux-gnu";
/// The dynamic loader, as executables name it (below a merged `/usr`).
pub const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// File names in [`LIBRARY_FOLDER`] that `executables` need, directly or through one another.
///
/// # Errors
/// When a library is in none of the packages.
pub fn closure(packages: &Packages, executables: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut pending = Vec::new();
    for path in executables {
        pending
            .extend(needed(&std::fs::read(packages.find(path)?)?).with_context(|| format!("read {path}"))?);
    }
    while let Some(name) = pending.pop() {
        if name.starts_with("ld-linux") || !found.insert(name.clone()) {
            continue;
        }
        let path = packages.find(&format!("{LIBRARY_FOLDER}/{name}"))?;
        pending.extend(
            needed(&std::fs::read(&path)?).with_context(|| format!("read library {}", path.display()))?,
        );
    }
    Ok(found)
}

/// `DT_NEEDED` entries of an ELF file.
///
/// # Errors
/// When it is no 64-bit ELF file.
pub fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    let header = object::elf::FileHeader64::<object::Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, bytes, link)?;
    let mut names = Vec::new();
    for entry in entries.iter().filter(|entry| entry.tag(endian) == object::elf::DT_NEEDED) {
        names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
    }
    Ok(names)
}
