//! The files of one layer, and the tar archive of them: the same files make the same bytes.
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What lies at a path.
#[derive(Debug, Clone)]
enum Entry {
    Folder(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// A layer to be filled.
#[derive(Debug, Clone, Default)]
pub struct Layer(BTreeMap<String, Entry>);

impl Layer {
    /// Adds a folder.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.add(path, Entry::Folder(mode));
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.add(path, Entry::File(bytes.into(), mode));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.add(path, Entry::Link(target.to_owned()));
        self
    }

    /// Adds a program of the host.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn program(self, path: &str, from: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(from)
            .map_err(|error| io::Error::new(error.kind(), format!("read {}: {error}", from.display())))?;
        Ok(self.file(path, bytes, 0o755))
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        // Folders above it, so that each layer stands by itself.
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Folder(0o755));
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// The archive.
    ///
    /// # Errors
    /// When a path does not fit the format.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match entry {
                Entry::Folder(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    archive.append_data(&mut header, path, io::empty())?;
                }
                Entry::File(bytes, mode) => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, path, &bytes[..])?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_its_folders_and_the_same_bytes_each_time() {
        let layer = || {
            Layer::default().file("usr/bin/tool", "x", 0o755).link("bin", "usr/bin").folder("/tmp", 0o1777)
        };
        let bytes = layer().pack().unwrap();
        assert_eq!(bytes, layer().pack().unwrap());
        let mut archive = tar::Archive::new(&bytes[..]);
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(paths, ["bin", "tmp", "usr", "usr/bin", "usr/bin/tool"]);
    }
}
