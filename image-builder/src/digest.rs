//! SHA-256 of files and trees, and names derived from them: a build's identifiers are functions of its content.
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// SHA-256 by `sha256sum`: the host's is optimised in every build, ours only in a release build, and a root has hundreds of megabytes.
#[derive(Debug)]
pub struct Hasher {
    child: Child,
    input: ChildStdin,
}

impl Hasher {
    /// Starts a digest.
    ///
    /// # Errors
    /// When sha256sum does not start.
    pub fn new() -> Result<Self> {
        let mut child = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run sha256sum")?;
        let input = child.stdin.take().context("sha256sum's input")?;
        Ok(Self { child, input })
    }

    /// The digest of everything that was written.
    ///
    /// # Errors
    /// When sha256sum fails.
    pub fn finish(self) -> Result<[u8; 32]> {
        drop(self.input);
        let done = self.child.wait_with_output().context("wait for sha256sum")?;
        let mut digest = [0; 32];
        let text = done.stdout.get(..64).context("sha256sum printed no digest")?;
        hex::decode_to_slice(text, &mut digest).context("read sha256sum's digest")?;
        Ok(digest)
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        std::io::copy(&mut file, &mut self.input).with_context(|| format!("read {}", path.display()))?;
        Ok(())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.input.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.input.flush()
    }
}

/// Hex digest of a file.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: &Path) -> Result<String> {
    let mut hasher = Hasher::new()?;
    hasher.file(path)?;
    Ok(hex::encode(hasher.finish()?))
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
    let mut hasher = Hasher::new()?;
    for path in walk(root)? {
        let meta = std::fs::symlink_metadata(&path)?;
        let relative = path.strip_prefix(root)?.as_os_str().as_bytes();
        // A folder's size is a matter of the file system it lies on.
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let head = [relative, &[0], &meta.permissions().mode().to_le_bytes(), &size.to_le_bytes()].concat();
        hasher.write_all(&head).context("write to sha256sum")?;
        if meta.is_symlink() {
            hasher
                .write_all(std::fs::read_link(&path)?.as_os_str().as_bytes())
                .context("write to sha256sum")?;
        } else if meta.is_file() {
            hasher.file(&path)?;
        }
    }
    hasher.finish()
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
