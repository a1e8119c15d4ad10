//! Debian packages whose programs go into test images: downloaded by apt and unpacked into the cache; nothing is installed.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use crate::{artifacts, host};

/// Where Debian keeps 64-bit libraries.
pub const LIBRARY_FOLDER: &str = "usr/lib/x86_64-linux-gnu";

/// Packages unpacked over one another.
#[derive(Debug, Clone)]
pub struct Packages {
    root: PathBuf,
    /// Names files and digests of the packages: what was made of them is kept by it.
    pub key: String,
}

impl Packages {
    /// Unpacks packages, once for each set of versions.
    ///
    /// # Errors
    /// When apt does not know one of them or cannot fetch it.
    pub fn fetch(names: &[&str]) -> Result<Self> {
        let uris = command_output(Command::new("apt-get").args(["download", "--print-uris"]).args(names))
            .context("ask apt for packages; run `apt-get update` first")?;
        let mut identity: Vec<String> = uris.lines().filter_map(identity).collect();
        ensure!(
            identity.len() == names.len(),
            "apt knows {} of the {} packages {}; run `apt-get update`",
            identity.len(),
            names.len(),
            names.join(" ")
        );
        identity.sort();
        let key = artifacts::key(&identity);
        let root = host::cache()?.join("packages").join(&key);
        if !root.is_dir() {
            std::fs::create_dir_all(root.parent().context("cache folder")?)?;
            let part = root.with_extension(format!("part-{}", std::process::id()));
            let archives = part.join("archives");
            std::fs::create_dir_all(&archives)?;
            // apt's own sandbox user could not write to a folder of ours.
            let mut download = Command::new("apt-get");
            download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(names);
            command_output(download.current_dir(&archives))?;
            for archive in std::fs::read_dir(&archives)? {
                command_output(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(&part))?;
            }
            std::fs::remove_dir_all(&archives)?;
            std::fs::rename(&part, &root).with_context(|| format!("keep {}", root.display()))?;
        }
        Ok(Self { root, key })
    }

    /// The file at `path` (without a leading slash) of a package; with or without the merged `/usr`.
    ///
    /// # Errors
    /// When no package has it.
    pub fn find(&self, path: &str) -> Result<PathBuf> {
        let merged = path.strip_prefix("usr/").unwrap_or(path);
        let places = [self.root.join(merged), self.root.join("usr").join(merged)];
        places.into_iter().find(|place| place.exists()).with_context(|| {
            format!("none of the Debian packages in {} has the file {path}", self.root.display())
        })
    }

    /// The shared libraries of a program and the loader, each with its path in an image: those of the packages before the host's.
    ///
    /// # Errors
    /// When ldd does not know the file, or one of its libraries is nowhere.
    pub fn libraries(&self, program: &Path) -> Result<Vec<(String, PathBuf)>> {
        let folders = [self.root.join(LIBRARY_FOLDER), self.root.join("lib/x86_64-linux-gnu")];
        let search = folders.map(|folder| folder.display().to_string()).join(":");
        let text = command_output(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", search))?;
        let paths = found(&text).with_context(|| format!("the libraries of {}", program.display()))?;
        Ok(paths
            .into_iter()
            .map(|path| {
                let inside = path.strip_prefix(&self.root).unwrap_or(&path);
                (inside.display().to_string(), path)
            })
            .collect())
    }
}

/// File name and digest of one line of `apt-get download --print-uris`.
fn identity(line: &str) -> Option<String> {
    let mut fields = line.split_whitespace().filter(|field| !field.starts_with('\''));
    let file = fields.next()?;
    let digest = fields.find(|field| field.starts_with("SHA256:"))?;
    Some(format!("{file} {digest}"))
}

/// Paths that ldd prints: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn found(text: &str) -> Result<Vec<PathBuf>> {
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        anyhow::bail!("{}", line.trim());
    }
    let path =
        |line: &str| line.split_ascii_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    let paths: Vec<PathBuf> = text.lines().filter_map(path).collect();
    ensure!(!paths.is_empty(), "ldd names none");
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_known_by_its_digest() {
        let line = "'http://mirror/x.deb' nftables_1.0.6-2+deb12u2_amd64.deb 70292 SHA256:966ff";
        assert_eq!(identity(line).as_deref(), Some("nftables_1.0.6-2+deb12u2_amd64.deb SHA256:966ff"));
        assert_eq!(identity("W: something"), None);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /r/lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let expected = ["/r/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found(text).unwrap(), expected);
        assert!(found("\tlibx.so.1 => not found\n").unwrap_err().to_string().contains("libx.so.1"));
        assert!(found("\tstatically linked\n").is_err());
    }
}
