//! A writer for the kernel's initramfs format (newc), with everything that could differ between two builds left out.
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Writes archive members in the order they are given.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    inode: u32,
}

struct Member<'a> {
    path: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    size: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub const fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds a folder; its parents come first.
    ///
    /// # Errors
    /// From the writer below.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(&Member { path, mode: DIRECTORY | 0o755, links: 2, device: (0, 0), size: 0 })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// From the writer below, or when the content is 4 GiB or more.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.header(&Member {
            path,
            mode: REGULAR | mode,
            links: 1,
            device: (0, 0),
            size: content.len() as u64,
        })?;
        self.content(content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// From the writer below.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.header(&Member {
            path,
            mode: SYMLINK | 0o777,
            links: 1,
            device: (0, 0),
            size: target.len() as u64,
        })?;
        self.content(target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// From the writer below.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.header(&Member { path, mode: CHARACTER | 0o600, links: 1, device: (major, minor), size: 0 })
    }

    /// Ends the archive and returns what it was written to.
    ///
    /// # Errors
    /// From the writer below.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = u32::MAX;
        self.header(&Member { path: "TRAILER!!!", mode: 0, links: 1, device: (0, 0), size: 0 })?;
        Ok(self.out)
    }

    fn header(&mut self, member: &Member<'_>) -> io::Result<()> {
        let size = u32::try_from(member.size)
            .map_err(|_| io::Error::other(format!("{} is too large for a cpio archive", member.path)))?;
        self.inode = self.inode.wrapping_add(1);
        let (major, minor) = member.device;
        let name = u32::try_from(member.path.len() + 1).map_err(io::Error::other)?;
        write!(self.out, "070701")?;
        for field in [self.inode, member.mode, 0, 0, member.links, 0, size, 0, 0, major, minor, name, 0] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(member.path.as_bytes())?;
        self.out.write_all(&[0])?;
        // The header is 110 bytes long; name and content are padded to four.
        self.pad(110 + member.path.len() + 1)
    }

    fn content(&mut self, content: &[u8]) -> io::Result<()> {
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_end_with_the_trailer() -> io::Result<()> {
        let mut archive = Writer::new(Vec::new());
        archive.directory("dev")?;
        archive.character_device("dev/console", 5, 1)?;
        archive.file("init", 0o755, b"12345")?;
        archive.symlink("link", "init")?;
        let bytes = archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            bytes.windows(6).enumerate().filter(|(at, window)| *window == b"070701" && at % 4 == 0).count(),
            5
        );
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
        Ok(())
    }
}
