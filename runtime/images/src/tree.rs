//! Walks and removals of directory trees that containers have shaped, however deep those are.
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Usage;

/// Directories are open on the way down, so the depth of one descent is bounded.
const DEPTH: usize = 64;

fn flags() -> OFlag {
    OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Removes everything inside `trash`. What lies deeper than one descent reaches is moved to the top, which is
/// gone through until it is empty.
///
/// # Errors
/// As openat(2), unlinkat(2) and renameat(2).
pub fn empty(trash: &Path) -> Result<(), Errno> {
    let root = open(trash, flags(), Mode::empty())?;
    clear(&root, &root, 0, &mut 0)
}

fn clear(root: &OwnedFd, dir: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    // Read whole before removing, in bounded rounds: removal may disturb a listing under way.
    loop {
        let mut listing = Dir::openat(dir, ".", flags(), Mode::empty())?;
        let entries = listing.iter().filter_map(|e| e.ok().map(|e| e.file_name().to_owned()));
        let names: Vec<_> = entries.filter(|n| !matches!(n.to_bytes(), b"." | b"..")).take(1024).collect();
        drop(listing);
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            match unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => continue,
                Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(error) => return Err(error),
            }
            if depth < DEPTH {
                let Some(child) = gone(openat(dir, name.as_c_str(), flags(), Mode::empty()))? else {
                    continue;
                };
                clear(root, &child, depth + 1, moved)?;
                gone(unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir))?;
            } else {
                *moved += 1;
                let top = format!(".deep-{:?}-{moved}", std::thread::current().id());
                gone(renameat(dir, name.as_c_str(), root, top.as_str()))?;
            }
        }
    }
}

/// Another removal under way may have been faster.
fn gone<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a tree takes on disk, hard links counted once per name; below [`DEPTH`] directories nothing is
/// counted.
///
/// # Errors
/// As open(2) of the tree's root; what vanishes during the walk counts nothing.
pub fn usage(path: &Path) -> Result<Usage, Errno> {
    let mut walk = Walk::begin(path)?;
    loop {
        if let Some(usage) = walk.go_on(|| true) {
            return Ok(usage);
        }
    }
}

/// A walk that counts what a tree takes, and may pause anywhere.
#[derive(Debug)]
pub struct Walk {
    /// From the root to where the walk is.
    open: Vec<rustix::fs::Dir>,
    usage: Usage,
}

impl Walk {
    /// # Errors
    /// As open(2).
    pub fn begin(path: &Path) -> Result<Self, Errno> {
        let root = rustix::fs::Dir::new(open(path, flags(), Mode::empty())?);
        let root = root.map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        Ok(Self { open: vec![root], usage: Usage::default() })
    }

    /// Counts on for as long as there is time for `more`; at the end of the tree says what it takes.
    pub fn go_on(&mut self, mut more: impl FnMut() -> bool) -> Option<Usage> {
        loop {
            let deep = self.open.len() > DEPTH;
            let Some(dir) = self.open.last_mut() else { return Some(self.usage) };
            if !more() {
                return None;
            }
            let Some(Ok(entry)) = dir.read() else {
                self.open.pop();
                continue;
            };
            let name = entry.file_name();
            if name.to_bytes() == b".." {
                continue;
            }
            let Ok(fd) = dir.fd() else { continue };
            let Ok(stat) = rustix::fs::statat(fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let directory = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            if !directory || name.to_bytes() == b"." {
                self.usage.bytes += stat.st_blocks as u64 * 512;
                self.usage.inodes += 1;
            } else if !deep {
                let Ok(child) = openat(fd, OsStr::from_bytes(name.to_bytes()), flags(), Mode::empty()) else {
                    continue;
                };
                self.open.extend(rustix::fs::Dir::new(child));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_far_deeper_than_one_descent_is_removed() {
        let trash = tempfile::tempdir().unwrap();
        let mut dir = open(trash.path(), flags(), Mode::empty()).unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&dir, "d", Mode::S_IRWXU).unwrap();
            dir = openat(&dir, "d", flags(), Mode::empty()).unwrap();
        }
        std::fs::write(trash.path().join("file"), "x").unwrap();
        drop(dir);
        empty(trash.path()).unwrap();
        assert_eq!(std::fs::read_dir(trash.path()).unwrap().count(), 0);
    }

    #[test]
    fn usage_counts_blocks_and_inodes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        let usage = usage(dir.path()).unwrap();
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 100_000);
    }
}
