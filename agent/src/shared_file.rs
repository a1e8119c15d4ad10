//! Files that a container may write and the agent reads or rewrites: never followed through a link, never
//! waited for, never read further than what is looked for.
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

/// Opening neither follows a link in the last component nor waits for the other end of a FIFO.
pub fn flags() -> i32 {
    (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()
}

/// Opens a file for reading.
///
/// # Errors
/// When it cannot be opened, or is no regular file, or has a second name, by which it may be somebody else's.
pub fn open(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(flags()).open(path)?)
}

/// The file, if it is a regular one with one name.
///
/// # Errors
/// When it is not, or fstat(2) fails.
pub fn regular(file: File) -> io::Result<File> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.nlink() > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file with several names"));
    }
    Ok(file)
}

/// Whether the file holds exactly `content`, at the cost of `content`.
///
/// # Errors
/// As read(2).
pub fn holds(file: &File, content: &[u8]) -> io::Result<bool> {
    let length = content.len() as u64;
    if file.metadata()?.len() != length {
        return Ok(false);
    }
    let mut present = Vec::with_capacity(content.len());
    // One more: it may have grown since.
    file.take(length + 1).read_to_end(&mut present)?;
    Ok(present == content)
}

/// Makes the file hold `content`, in place, as running containers may have it mounted. What is no file of
/// its own is replaced by one.
///
/// # Errors
/// When it cannot be opened, written or replaced.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags()).open(path).and_then(regular);
    let mut file = match opened {
        Ok(file) if holds(&file, content)? => return Ok(()),
        Ok(file) => {
            file.set_len(0)?;
            // Reading has moved the offset.
            io::Seek::rewind(&mut &file)?;
            file
        }
        Err(_) => {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?
        }
    };
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compared_at_the_cost_of_what_it_should_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"one", 0o640).unwrap();
        assert!(holds(&open(&path).unwrap(), b"one").unwrap());
        assert!(!holds(&open(&path).unwrap(), b"two").unwrap());
        assert!(!holds(&open(&path).unwrap(), b"on").unwrap());
        write(&path, b"three", 0o600).unwrap();
        write(&path, b"3", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"3");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_device_or_a_folder_is_no_file() {
        assert!(open(Path::new("/dev/null")).is_err());
        assert!(open(Path::new("/")).is_err());
    }
}
