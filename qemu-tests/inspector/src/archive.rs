//! As much of tar(1) as `kubectl cp` needs.
use std::io::{stdin, stdout};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// `tar cf - PATH` and `tar -xmf - -C FOLDER`.
pub fn tar(words: &[&str]) -> Result<()> {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with("--")).collect();
    match words.as_slice() {
        [mode, "-", path] if mode.contains('c') => {
            let mut builder = tar::Builder::new(stdout().lock());
            let name = path.trim_start_matches('/');
            if Path::new(path).is_dir() {
                builder.append_dir_all(name, path)
            } else {
                builder.append_path_with_name(path, name)
            }
            .with_context(|| format!("pack {path}"))?;
            builder.finish().context("finish the archive")
        }
        [mode, "-", rest @ ..] if mode.contains('x') => {
            let folder = match rest {
                [] => ".",
                ["-C", folder] => folder,
                _ => bail!("tar: unknown words {rest:?}"),
            };
            let mut archive = tar::Archive::new(stdin().lock());
            archive.set_preserve_mtime(false);
            archive.unpack(folder).with_context(|| format!("unpack into {folder}"))
        }
        _ => bail!("tar: unknown words {words:?}"),
    }
}
