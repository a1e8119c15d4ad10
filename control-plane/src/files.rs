//! Files that are either old or new, never mixed, even after a power cut.
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes `content` with `mode` unless the file has both already; true when it was written. The folder is made where missing.
///
/// # Errors
/// The failing system call's, with the path.
pub fn write_changed(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let name = |error: io::Error| io::Error::new(error.kind(), format!("write {}: {error}", path.display()));
    if unchanged(path, content, mode) {
        return Ok(false);
    }
    write(path, content, mode).map_err(name)?;
    Ok(true)
}

fn unchanged(path: &Path, content: &[u8], mode: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o7777 == mode)
        && fs::read(path).is_ok_and(|old| old == content)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let file_name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    // A dot file: the agent reads no such names in the manifest folder.
    let temporary = folder.join(format!(".{file_name}.new"));
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_only_when_content_or_mode_differ() {
        let folder = std::env::temp_dir().join(format!("pintle-files-{}", std::process::id()));
        let path = folder.join("a/b.conf");
        assert!(write_changed(&path, b"one", 0o600).unwrap());
        assert!(!write_changed(&path, b"one", 0o600).unwrap());
        assert!(write_changed(&path, b"two", 0o600).unwrap());
        assert!(write_changed(&path, b"two", 0o644).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.join("a")).unwrap().count(), 1, "nothing temporary stays");
        fs::remove_dir_all(folder).unwrap();
    }
}
