//! Names of entries.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::MAX_DEPTH;
use super::error::{ApplyError, refused};

/// A name as a clean relative path: no `.`, no `..`, no leading slash.
pub(super) fn clean(name: &[u8]) -> Result<PathBuf, ApplyError> {
    let shown = Path::new(OsStr::from_bytes(name));
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| refused(shown, "it leaves the root"))?;
            }
            _ if part.len() > 255 || part.contains(&0) => {
                return Err(refused(shown, "a part of it is no file name"));
            }
            _ => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH || name.len() > 4096 {
        return Err(refused(shown, "the path is too deep or too long"));
    }
    Ok(parts.iter().map(|p| OsStr::from_bytes(p)).collect())
}
