//! What a layer holds, as its tar says it and as it lies unpacked: all that a container would notice.
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use tar::EntryType;

use crate::content::digest_of;
use crate::ring::{Outcome, check, text};

/// What hides a name of the layers below; nobody sees whose it is.
const WHITEOUT: Node =
    Node { kind: Kind::Device { block: false, number: (0, 0) }, mode: 0, owner: (0, 0), names: 1 };

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    /// With the digest of its content.
    File(String),
    Link(PathBuf),
    Pipe,
    /// A character device unless it is a block device.
    Device {
        block: bool,
        number: (u64, u64),
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    /// How many names it has.
    names: u64,
}

/// Every name below a layer's root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    /// Of an uncompressed layer, in which every folder has an entry.
    pub fn of_tar(tar: &[u8]) -> Result<Self, String> {
        let mut nodes: BTreeMap<PathBuf, Node> = BTreeMap::new();
        let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
        for entry in tar::Archive::new(tar).entries().map_err(text)? {
            let mut entry = entry.map_err(text)?;
            let path: PathBuf = entry.path().map_err(text)?.components().collect();
            let target = entry.link_name().map_err(text)?.map(PathBuf::from).unwrap_or_default();
            if entry.header().entry_type() == EntryType::Link {
                links.push((path, target));
                continue;
            }
            let (path, node) = described(&mut entry, path, target)?;
            nodes.insert(path, node);
        }
        for (path, target) in &links {
            let node = nodes.get_mut(target).ok_or_else(|| format!("no {} to link to", target.display()))?;
            node.names += 1;
            let node = node.clone();
            nodes.insert(path.clone(), node);
        }
        // Those that were linked to before the last link was.
        for (path, target) in &links {
            let names = nodes[target].names;
            nodes.entry(path.clone()).and_modify(|node| node.names = names);
        }
        Ok(Self(nodes))
    }

    /// Of an unpacked layer.
    pub fn of_folder(root: &Path) -> Result<Self, String> {
        let (mut nodes, mut todo) = (BTreeMap::new(), vec![root.to_path_buf()]);
        while let Some(folder) = todo.pop() {
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let node = found(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                if node.kind == Kind::Folder {
                    todo.push(path.clone());
                }
                nodes.insert(path.strip_prefix(root).map_err(text)?.to_path_buf(), node);
            }
        }
        Ok(Self(nodes))
    }

    /// That `found` is the same, with the first difference.
    pub fn is(&self, found: &Self) -> Outcome {
        let names = self.0.keys().chain(found.0.keys().filter(|name| !self.0.contains_key(*name)));
        for name in names {
            let (should, is) = (self.0.get(name), found.0.get(name));
            check(should == is, format!("{} should be {should:?} and is {is:?}", name.display()))?;
        }
        Ok(())
    }
}

/// What an entry of a tar makes.
fn described(
    entry: &mut tar::Entry<'_, impl Read>,
    path: PathBuf,
    target: PathBuf,
) -> Result<(PathBuf, Node), String> {
    let header = entry.header().clone();
    let mut content = Vec::new();
    let number = |part: std::io::Result<Option<u32>>| u64::from(part.ok().flatten().unwrap_or_default());
    let device = |block: bool| Kind::Device {
        block,
        number: (number(header.device_major()), number(header.device_minor())),
    };
    let hidden = path.file_name().and_then(|name| name.as_bytes().strip_prefix(b".wh."));
    if let Some(hidden) = hidden {
        return Ok((path.with_file_name(std::ffi::OsStr::from_bytes(hidden)), WHITEOUT));
    }
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Folder,
        EntryType::Regular => {
            entry.read_to_end(&mut content).map_err(text)?;
            Kind::File(digest_of(&content))
        }
        EntryType::Symlink => Kind::Link(target),
        EntryType::Fifo => Kind::Pipe,
        EntryType::Char => device(false),
        EntryType::Block => device(true),
        other => return Err(format!("{}: an entry of the kind {other:?}", path.display())),
    };
    let owner = (header.uid().map_err(text)?, header.gid().map_err(text)?);
    Ok((path, Node { kind, mode: header.mode().map_err(text)?, owner, names: 1 }))
}

/// What lies at a path.
fn found(path: &Path) -> std::io::Result<Node> {
    let stat = path.symlink_metadata()?;
    let kind = stat.file_type();
    let device = |block: bool| Kind::Device { block, number: (major(stat.rdev()), minor(stat.rdev())) };
    let kind = if kind.is_dir() {
        Kind::Folder
    } else if kind.is_symlink() {
        Kind::Link(fs::read_link(path)?)
    } else if kind.is_fifo() {
        Kind::Pipe
    } else if kind.is_char_device() || kind.is_block_device() {
        device(kind.is_block_device())
    } else {
        Kind::File(digest_of(&fs::read(path)?))
    };
    if kind == WHITEOUT.kind {
        return Ok(WHITEOUT);
    }
    // The kernel counts the names of folders in its own way.
    let names = if kind == Kind::Folder { 1 } else { stat.nlink() };
    let owner = (stat.uid().into(), stat.gid().into());
    Ok(Node { kind, mode: stat.mode() & 0o7777, owner, names })
}
