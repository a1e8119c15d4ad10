//! A docker archive of an image with one executable, as `pintle image import` takes it.
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Writes an image `name` whose entry point is `executable`, and which has further names for it (`links`, absolute) and a /tmp.
///
/// # Errors
/// When the executable cannot be read or `archive` not written.
pub fn write(executable: &Path, name: &str, links: &[&str], archive: &Path) -> Result<()> {
    let program = format!("/{}", executable.file_name().context("the executable's name")?.to_string_lossy());
    let layer = layer(executable, &program, links)?;
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": [program], "Env": ["PATH=/:/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]},
    }))?;
    let manifest =
        serde_json::to_vec(&json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]))?;
    let mut builder = tar::Builder::new(
        std::fs::File::create(archive).with_context(|| format!("create {}", archive.display()))?,
    );
    for (path, content) in [("manifest.json", &manifest), ("config.json", &config), ("layer.tar", &layer)] {
        builder.append_data(
            &mut header(tar::EntryType::Regular, 0o644, content.len()),
            path,
            &content[..],
        )?;
    }
    Ok(builder.into_inner()?.flush()?)
}

fn layer(executable: &Path, program: &str, links: &[&str]) -> Result<Vec<u8>> {
    let content = std::fs::read(executable).with_context(|| format!("read {}", executable.display()))?;
    let mut builder = tar::Builder::new(Vec::new());
    let mut file = header(tar::EntryType::Regular, 0o755, content.len());
    builder.append_data(&mut file, program.trim_start_matches('/'), &content[..])?;
    for link in links {
        let path = link.trim_start_matches('/');
        builder.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, program)?;
    }
    builder.append_data(&mut header(tar::EntryType::Directory, 0o1777, 0), "tmp/", &[][..])?;
    builder.into_inner().context("finish the layer")
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_a_manifest_that_names_its_files() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("program");
        std::fs::write(&program, "#!")?;
        let path = folder.path().join("image.tar");
        write(&program, "example.test/a:v1", &["/bin/tar"], &path)?;
        let mut archive = tar::Archive::new(std::fs::File::open(&path)?);
        let names: Vec<String> = archive
            .entries()?
            .map(|entry| Ok(entry?.path()?.to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        assert_eq!(names, ["manifest.json", "config.json", "layer.tar"]);
        let layer = layer(&program, "/program", &["/bin/tar"])?;
        let mut layer = tar::Archive::new(&layer[..]);
        let kinds: Vec<_> =
            layer.entries()?.map(|entry| Ok(entry?.header().entry_type())).collect::<Result<_>>()?;
        assert_eq!(kinds, [tar::EntryType::Regular, tar::EntryType::Symlink, tar::EntryType::Directory]);
        Ok(())
    }
}
