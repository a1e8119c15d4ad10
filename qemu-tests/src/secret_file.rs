//! Files with secrets in them, which nobody but their owner reads at any moment.
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file of mode 0600; one that is there already is closed to others before anything is written to it.
///
/// # Errors
/// When it cannot be written; the path is named.
pub fn write(path: &Path, content: &str) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut file = open(path).with_context(what)?;
    file.set_permissions(Permissions::from_mode(0o600)).with_context(what)?;
    file.set_len(0).with_context(what)?;
    file.write_all(content.as_bytes()).with_context(what)
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_reads_it_even_if_it_was_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, "a longer text of before").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write(&path, "key: x").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "key: x");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
