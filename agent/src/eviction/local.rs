//! What pods hold of the node's disk beside their writable layers: logs, and volumes that are folders of the node.
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::pod::convert::log_directory;

/// Bytes and inodes by uid.
pub type Files = HashMap<String, (u64, u64)>;

/// How long all pods together are looked at. What is found until then decides: the disk is short now.
const WITHIN: Duration = Duration::from_secs(20);
/// Folders in folders beyond this are not entered.
const DEEPEST: usize = 128;
const BLOCK: u64 = 512;

/// Measures what these pods hold, on a thread of its own: pods choose how much there is to look at.
pub async fn measure<'a>(pods: impl Iterator<Item = &'a Pod>) -> Files {
    let places: Vec<(String, [PathBuf; 2])> = pods
        .filter_map(|pod| {
            let uid = pod.metadata.uid.clone()?;
            let volumes = Path::new(machine::paths::KUBELET).join("pods").join(&uid).join("volumes");
            Some((uid, [PathBuf::from(log_directory(pod)), volumes]))
        })
        .collect();
    let look = move || {
        let until = Instant::now() + WITHIN;
        let held =
            |folders: &[PathBuf; 2]| folders.iter().fold((0, 0), |sum, folder| add(sum, tree(folder, until)));
        places.iter().map(|(uid, folders)| (uid.clone(), held(folders))).collect()
    };
    match node_kit::tasks::blocking("measure the files of pods", WITHIN * 2, look).await {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!("pods are ranked by their writable layers alone: {error}");
            Files::new()
        }
    }
}

fn add(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
}

/// Bytes and inodes below a folder, on its own file system, without following links.
fn tree(folder: &Path, until: Instant) -> (u64, u64) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let Ok(mut dir) = Dir::open(folder, flags, Mode::empty()) else { return (0, 0) };
    let Ok(own) = fstat(&dir) else { return (0, 0) };
    let mut sum = (0, 0);
    // What cannot be read is not counted; pods remove files meanwhile.
    let _ = walk(&mut dir, &own, until, 0, &mut sum);
    sum
}

fn walk(dir: &mut Dir, top: &FileStat, until: Instant, depth: usize, sum: &mut (u64, u64)) -> io::Result<()> {
    let names: Vec<_> = dir.iter().filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Ok(found) = fstatat(dir.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        // A memory-backed volume, or one of another kind that is mounted there, is no part of this disk.
        if found.st_dev != top.st_dev {
            continue;
        }
        // A file with several names counts once for each: whoever has two names cannot be told.
        let blocks = u64::try_from(found.st_blocks).unwrap_or(0);
        *sum = add(*sum, (blocks * BLOCK, 1));
        if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() && depth < DEEPEST {
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            if let Ok(mut inner) = Dir::openat(dir.as_fd(), name.as_c_str(), flags, Mode::empty()) {
                walk(&mut inner, top, until, depth + 1, sum)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_links_are_not_followed() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("deep/full"), vec![7; 1 << 20]).unwrap();
        std::fs::File::create(folder.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(elsewhere.path().join("other"), vec![7; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("link")).unwrap();
        let far = Instant::now() + Duration::from_secs(600);
        let (bytes, inodes) = tree(folder.path(), far);
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert_eq!(inodes, 4, "a folder, two files and a link");
        assert_eq!(tree(&folder.path().join("none"), far), (0, 0));
        assert_eq!(tree(folder.path(), Instant::now()), (0, 0), "no time left");
    }
}
