//! Devices of a container: nodes to make, and what the device filter allows.
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use machine::cri;
use serde_json::{Value, json};
use sys::device_filter::{Allow, Kind, MKNOD, READ, WRITE};

/// A device node as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub kind: Kind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub access: u32,
}

/// Looks the requested devices up on the host; a folder stands for every device below it.
///
/// # Errors
/// Names the path that is no device.
pub fn find(requested: &[cri::Device]) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for device in requested {
        let host = fs::canonicalize(&device.host_path).map_err(|error| named(&device.host_path, &error))?;
        let container = Path::new(if device.container_path.is_empty() {
            &device.host_path
        } else {
            &device.container_path
        });
        collect(&host, container, access(&device.permissions), 0, &mut nodes)
            .map_err(|error| named(&device.host_path, &error))?;
    }
    Ok(nodes)
}

/// Every device of the host, for privileged containers; what cannot be read or is a terminal of others is left out.
pub fn all() -> Vec<Node> {
    let mut nodes = Vec::new();
    let _ = collect(Path::new("/dev"), Path::new("/dev"), MKNOD | READ | WRITE, 0, &mut nodes);
    nodes.retain(|node| {
        let path = node.path.to_string_lossy();
        !["/dev/pts/", "/dev/shm/", "/dev/fd/", "/dev/mqueue/"].iter().any(|prefix| path.starts_with(prefix))
            && !["/dev/console", "/dev/ptmx"].contains(&&*path)
    });
    nodes
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("device {path}: {error}"))
}

fn access(permissions: &str) -> u32 {
    permissions.chars().fold(0, |access, letter| {
        access
            | match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => 0,
            }
    })
}

fn collect(host: &Path, container: &Path, access: u32, depth: u32, nodes: &mut Vec<Node>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(host)?;
    let kind = metadata.file_type();
    if kind.is_dir() && depth < 8 {
        for entry in fs::read_dir(host)?.flatten() {
            let _ = collect(&entry.path(), &container.join(entry.file_name()), access, depth + 1, nodes);
        }
        return Ok(());
    }
    let kind = if kind.is_block_device() {
        Kind::Block
    } else if kind.is_char_device() {
        Kind::Char
    } else if depth > 0 {
        return Ok(());
    } else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"));
    };
    nodes.push(Node {
        path: container.into(),
        kind,
        major: nix::sys::stat::major(metadata.rdev()) as u32,
        minor: nix::sys::stat::minor(metadata.rdev()) as u32,
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access,
    });
    Ok(())
}

/// For OCI's `linux.devices`.
pub fn to_oci(nodes: &[Node]) -> Vec<Value> {
    nodes
        .iter()
        .map(|node| {
            let kind = if node.kind == Kind::Block { "b" } else { "c" };
            json!({
                "path": node.path, "type": kind, "major": node.major, "minor": node.minor,
                "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
            })
        })
        .collect()
}

/// What processes may use: the standard devices, pseudo-terminals, and the container's own.
pub fn allowed(nodes: &[Node]) -> Vec<Allow> {
    let any = |kind| Allow { kind: Some(kind), major: None, minor: None, access: MKNOD };
    let char_device = |major, minor| Allow {
        kind: Some(Kind::Char),
        major: Some(major),
        minor,
        access: MKNOD | READ | WRITE,
    };
    let mut rules = vec![any(Kind::Char), any(Kind::Block)];
    // null, zero, full, random, urandom; tty, console, ptmx; pseudo-terminals.
    rules.extend([3, 5, 7, 8, 9].map(|minor| char_device(1, Some(minor))));
    rules.extend([0, 1, 2].map(|minor| char_device(5, Some(minor))));
    rules.push(char_device(136, None));
    rules.extend(nodes.iter().map(|node| Allow {
        kind: Some(node.kind),
        major: Some(node.major),
        minor: Some(node.minor),
        access: node.access,
    }));
    rules
}
