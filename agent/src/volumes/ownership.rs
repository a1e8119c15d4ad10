//! fsGroup: the volume's files belong to a group and its directories hand that on (pkg/volume/volume_linux.go).
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const SETGID: u32 = 0o2000;

/// Gives everything below `dir` to `group`; `read_only` volumes get no write bit.
pub(super) fn set_group(dir: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(dir)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(dir)? {
            set_group(&entry?.path(), group, read_only)?;
        }
    }
    if metadata.gid() != group {
        lchown(dir, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.mode() & 0o7777;
    let wanted = mode | mask(metadata.is_dir(), read_only);
    if wanted != mode || metadata.gid() != group {
        fs::set_permissions(dir, fs::Permissions::from_mode(wanted))?;
    }
    Ok(())
}

fn mask(is_dir: bool, read_only: bool) -> u32 {
    let rw = if read_only { 0o440 } else { 0o660 };
    if is_dir { rw | SETGID | 0o110 } else { rw }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_hand_the_group_on_and_read_only_volumes_stay_unwritable() {
        assert_eq!(mask(true, false), 0o2770);
        assert_eq!(mask(false, false), 0o660);
        assert_eq!(mask(true, true), 0o2550);
        assert_eq!(mask(false, true), 0o440);
    }
}
