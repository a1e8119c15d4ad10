//! Debian packages, fetched with `apt-get download` and unpacked into a cache without root.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{output, run};

/// Packages whose files go into the root image; libraries are picked by what the executables need.
pub const ROOT_PACKAGES: &[&str] = &[
    "nftables",
    "e2fsprogs",
    "libc6",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libgmp10",
    "libedit2",
    "libtinfo6",
    "libbsd0",
    "libmd0",
    "libxtables12",
    "libext2fs2",
    "libcom-err2",
    "libss2",
    "libblkid1",
    "libuuid1",
    "libgcc-s1",
    "ca-certificates",
];
/// The meta package that names the newest kernel of the 6.12 series.
const KERNEL_META: &str = "linux-image-6.12-amd64";

/// Unpacked packages, searched in order.
#[derive(Debug, Clone)]
pub struct Packages {
    trees: Vec<PathBuf>,
    /// File name and digest of each package: what a build's input hash is made of.
    pub identity: Vec<String>,
}

impl Packages {
    /// The first unpacked file at `path` (without a leading slash); usr-merged places are tried too.
    ///
    /// # Errors
    /// When no package has it.
    pub fn find(&self, path: &str) -> Result<PathBuf> {
        let merged = path.strip_prefix("usr/").unwrap_or(path);
        for tree in &self.trees {
            for candidate in [tree.join(merged), tree.join("usr").join(merged)] {
                if candidate.exists() {
                    return Ok(candidate);
                }
            }
        }
        bail!("none of the Debian packages {:?} has the file {path}", self.identity)
    }
}

/// One line of `apt-get download --print-uris`.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    file: String,
    digest: String,
}

fn parse_uri_line(line: &str) -> Option<Package> {
    let mut fields = line.split_whitespace().filter(|field| !field.starts_with('\''));
    let file = fields.next()?.to_owned();
    let digest = fields.find_map(|field| field.strip_prefix("SHA256:"))?.to_owned();
    Some(Package { file, digest })
}

/// The kernel package that the meta package points at, such as `linux-image-6.12.117+deb12-amd64`.
///
/// # Errors
/// When apt does not know the meta package.
pub fn kernel_package() -> Result<String> {
    let text = output("apt-cache", &["show", "--no-all-versions", KERNEL_META]).with_context(|| {
        format!("look up {KERNEL_META}; run `apt-get update` with Debian 12's security suite enabled")
    })?;
    kernel_of(&text).with_context(|| format!("{KERNEL_META} names no kernel package"))
}

fn kernel_of(text: &str) -> Option<String> {
    let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split(',')
        .filter_map(|item| item.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(Into::into)
}

/// Fetches and unpacks packages into `cache`; what is there already is not fetched again.
///
/// # Errors
/// When apt cannot fetch one of them.
pub fn fetch(cache: &Path, names: &[&str]) -> Result<Packages> {
    let mut arguments = vec!["download", "--print-uris"];
    arguments.extend(names);
    let listing =
        output("apt-get", &arguments).context("ask apt for package addresses; run `apt-get update` first")?;
    let packages: Vec<Package> = listing.lines().filter_map(parse_uri_line).collect();
    ensure!(
        packages.len() == names.len(),
        "apt knows only {} of the packages {names:?}; run `apt-get update`",
        packages.len()
    );
    std::fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let tree = |package: &Package| {
        let stem = package.file.trim_end_matches(".deb");
        cache.join(format!("{stem}-{}", &package.digest[..12.min(package.digest.len())]))
    };
    let missing: Vec<&Package> = packages.iter().filter(|package| !tree(package).is_dir()).collect();
    if !missing.is_empty() {
        let work = tempfile::tempdir_in(cache)?;
        let names = missing.iter().filter_map(|package| package.file.split('_').next());
        run(Command::new("apt-get").args(["-q", "download"]).args(names).current_dir(work.path()))?;
        for package in missing {
            unpack(work.path(), package, &tree(package))?;
        }
    }
    let mut identity: Vec<_> =
        packages.iter().map(|package| format!("{} {}", package.file, package.digest)).collect();
    identity.sort();
    Ok(Packages { trees: packages.iter().map(tree).collect(), identity })
}

fn unpack(work: &Path, package: &Package, tree: &Path) -> Result<()> {
    let archive = work.join(&package.file);
    let digest = crate::digest::file(&archive)?;
    ensure!(
        digest == package.digest,
        "{} has digest {digest}, apt promised {}",
        package.file,
        package.digest
    );
    let unpacked = work.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    match std::fs::rename(&unpacked, tree) {
        // Another build may have been first; its tree has the same content.
        Err(_) if tree.is_dir() => Ok(std::fs::remove_dir_all(&unpacked)?),
        other => other.with_context(|| format!("move the unpacked {} into {}", package.file, tree.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_apt_lines() {
        let line = "'http://mirror/x.deb' nftables_1.0.6-2+deb12u2_amd64.deb 70292 SHA256:966ff";
        let expected = Package { file: "nftables_1.0.6-2+deb12u2_amd64.deb".into(), digest: "966ff".into() };
        assert_eq!(parse_uri_line(line), Some(expected));
        assert_eq!(parse_uri_line("W: something"), None);
    }

    #[test]
    fn kernel_comes_from_the_meta_package() {
        let text = "Package: linux-image-6.12-amd64\nDepends: linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)\n";
        assert_eq!(kernel_of(text).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
    }
}
