//! The initramfs: init's first stage and the modules that find the root.
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Writer;
use crate::modules::Subset;

/// zstd level: the archive is mostly compressed modules, a higher level gains nothing.
const LEVEL: i32 = 9;

/// Writes the initramfs to `path`.
///
/// # Errors
/// When a part cannot be read or the file cannot be written.
pub fn build(path: &Path, init: &Path, release: &str, module_folder: &Path, modules: &Subset) -> Result<()> {
    let mut archive = Writer::new(Vec::new());
    let folder = format!("lib/modules/{release}");
    let mut folders: BTreeSet<String> = ["dev", "proc", "sys", "run", "sysroot"].map(String::from).into();
    for file in modules.files.iter().map(|file| format!("{folder}/{file}")) {
        folders.extend(file.match_indices('/').map(|(at, _)| file[..at].to_owned()));
    }
    for folder in &folders {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, &std::fs::read(init).with_context(|| format!("read {}", init.display()))?)?;
    for file in &modules.files {
        let content =
            std::fs::read(module_folder.join(file)).with_context(|| format!("read module {file}"))?;
        archive.file(&format!("{folder}/{file}"), 0o644, &content)?;
    }
    for (name, content) in &modules.indexes {
        archive.file(&format!("{folder}/{name}"), 0o644, content.as_bytes())?;
    }
    let packed = zstd::encode_all(archive.finish()?.as_slice(), LEVEL)?;
    std::fs::write(path, packed).with_context(|| format!("write {}", path.display()))
}

/// Writes `initramfs` with the root image behind it, as network boot needs it. The second archive is not compressed: the image is.
///
/// # Errors
/// When a part cannot be read or the file cannot be written.
pub fn with_root(path: &Path, initramfs: &Path, root: &Path) -> Result<()> {
    let mut out = std::fs::read(initramfs)?;
    // The kernel looks for a further archive at a multiple of four.
    out.resize(out.len().next_multiple_of(4), 0);
    let mut archive = Writer::new(out);
    archive.file("root.img", 0o400, &std::fs::read(root)?)?;
    let bytes = archive.finish()?;
    let mut file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    Ok(file.write_all(&bytes)?)
}
