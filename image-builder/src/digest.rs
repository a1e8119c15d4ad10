//! SHA-256 of files and trees, and names derived from them: a build's identifiers are functions of its content.
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Hex digest of a file.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    add_file(&mut hasher, path)?;
    Ok(hex::encode(hasher.finalize()))
}

fn add_file(hasher: &mut Sha256, path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    std::io::copy(&mut file, hasher).with_context(|| format!("read {}", path.display()))?;
    Ok(())
}

/// Every path below `root`, sorted bytewise, folders before what is in them; symbolic links are not followed.
///
/// # Errors
/// When a folder cannot be read.
pub fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("read folder {}", folder.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(found)
}

/// Digest of a tree: paths, modes, link targets and contents.
///
/// # Errors
/// When something in it cannot be read.
pub fn tree(root: &Path) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    for path in walk(root)? {
        let meta = std::fs::symlink_metadata(&path)?;
        hasher.update(path.strip_prefix(root)?.as_os_str().as_bytes());
        // A folder's size is a matter of the file system it lies on.
        let size = if meta.is_dir() { 0 } else { meta.len() };
        hasher.update([0]);
        hasher.update(meta.permissions().mode().to_le_bytes());
        hasher.update(size.to_le_bytes());
        if meta.is_symlink() {
            hasher.update(std::fs::read_link(&path)?.as_os_str().as_bytes());
        } else if meta.is_file() {
            add_file(&mut hasher, &path)?;
        }
    }
    Ok(hasher.finalize().into())
}

/// A version-8 UUID (RFC 9562: vendor-specific) for `purpose` of the content with this digest.
#[must_use]
pub fn uuid(digest: &[u8], purpose: &str) -> uuid::Uuid {
    let hash = Sha256::new().chain_update(digest).chain_update(purpose).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_known_by_its_content() -> Result<()> {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        for folder in [&one, &two] {
            std::fs::create_dir(folder.path().join("a"))?;
            std::fs::write(folder.path().join("a/b"), "content")?;
        }
        assert_eq!(tree(one.path())?, tree(two.path())?);
        std::fs::write(two.path().join("a/b"), "CONTENT")?;
        assert_ne!(tree(one.path())?, tree(two.path())?);
        Ok(())
    }

    #[test]
    fn digests_are_sha256() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        assert!(super::file(file.path())?.starts_with("e3b0c44298fc1c14"));
        Ok(())
    }
}
