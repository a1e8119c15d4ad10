//! Reading the mount table of this thread (proc_pid_mountinfo(5)).
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points at or below `folder`, the last mounted first.
pub(super) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(mount_points(&table, folder))
}

fn mount_points(table: &[u8], folder: &Path) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').rev();
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(folder)).collect()
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.first_chunk::<3>()).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_mounts_come_first_and_escapes_are_undone() {
        let table = b"1 0 8:1 / / rw - ext4 a rw\n2 1 0:5 / /pods/u rw - tmpfs t rw\n3 2 0:6 / /pods/u/a\\040b rw - tmpfs t rw\n4 1 0:7 / /pods/u2 rw - tmpfs t rw\n";
        let found = mount_points(table, Path::new("/pods/u"));
        assert_eq!(found, [PathBuf::from("/pods/u/a b"), PathBuf::from("/pods/u")]);
    }
}
