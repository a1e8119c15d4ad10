//! Building folder trees: files that share content are hard links, which EROFS stores once.
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder that becomes a file system.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Starts a tree at a new folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(root: PathBuf) -> Result<Self> {
        let tree = Self { root };
        tree.directory("")?;
        Ok(tree)
    }

    /// Where the tree lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a folder and its parents, mode 0755.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn directory(&self, path: &str) -> Result<PathBuf> {
        let full = self.root.join(path);
        std::fs::create_dir_all(&full).with_context(|| format!("create folder {}", full.display()))?;
        // The builder's umask must not show in the image.
        let mut folder = full.as_path();
        while folder.starts_with(&self.root) {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
            let Some(parent) = folder.parent() else { break };
            folder = parent;
        }
        Ok(full)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let full = self.place(path)?;
        std::fs::write(&full, content).with_context(|| format!("write {}", full.display()))?;
        Ok(std::fs::set_permissions(&full, PermissionsExt::from_mode(mode))?)
    }

    /// Copies a file in, following symbolic links.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy(&self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let full = self.place(path)?;
        std::fs::copy(source, &full).with_context(|| format!("copy {} into the image", source.display()))?;
        Ok(std::fs::set_permissions(&full, PermissionsExt::from_mode(mode))?)
    }

    /// Gives `existing` a second name.
    ///
    /// # Errors
    /// When it does not exist or `path` does.
    pub fn hard_link(&self, existing: &str, path: &str) -> Result<()> {
        let full = self.place(path)?;
        std::fs::hard_link(self.root.join(existing), &full)
            .with_context(|| format!("link {existing} to {path}"))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// When `path` exists.
    pub fn link(&self, target: &str, path: &str) -> Result<()> {
        let full = self.place(path)?;
        symlink(target, &full).with_context(|| format!("link {path} to {target}"))
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(self.root.join(path))
    }
}
