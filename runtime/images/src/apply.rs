//! Unpacks one layer into a directory in overlayfs' terms. Every name is resolved by the kernel below the
//! layer's root (openat2, `RESOLVE_IN_ROOT`), so no entry and no link of a hostile layer reaches outside of
//! it.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, ftruncate, linkat, symlinkat, unlinkat};

mod attributes;
mod bounded;
mod error;
mod name;
mod remove;

pub use error::ApplyError;

use super::Limits;
use super::tarball::{Entry, Kind, TarReader};
use attributes::{attributes, timespec};
use bounded::Bounded;
use error::{at, io_at, refused};
use name::clean;
use remove::remove_tree;

/// The deepest path, so that whoever walks a layer needs few descriptors.
const MAX_DEPTH: usize = 256;
/// The most bytes of directory names kept until their times are set.
const MAX_TIMES: usize = 16 << 20;
/// The most bytes of names of directories that the entries imply.
const MAX_IMPLIED: usize = 16 << 20;
/// What the stream may hold for an entry besides what is written, on average: headers, and data that nobody
/// wants.
const MAX_UNWRITTEN: u64 = 16 << 10;
/// How many bytes are written between looks at the free space.
const SPACE_CHECK: u64 = 32 << 20;

/// What a layer came to.
#[derive(Debug, Default)]
pub struct Applied {
    pub bytes: u64,
    pub inodes: u64,
    /// Directories that the layer uses and does not itself describe.
    pub implied: Vec<PathBuf>,
}

struct Applier<'a> {
    root: OwnedFd,
    limits: &'a Limits,
    bytes: u64,
    inodes: u64,
    unchecked: u64,
    /// By inode: a later entry may reach the same directory by another name.
    implied: BTreeMap<u64, PathBuf>,
    implied_bytes: usize,
    times: Vec<(PathBuf, TimeSpec)>,
    times_bytes: usize,
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
}

/// Unpacks the tar stream below `root`, an empty directory that nobody else touches.
///
/// # Errors
/// When the stream is malformed, hostile or above the limits, or the file system refuses; what was unpacked
/// so far stays for the caller to remove.
pub fn apply(reader: impl Read, root: &Path, limits: &Limits) -> Result<Applied, ApplyError> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(root, flags, Mode::empty()).map_err(|e| at(root, e))?;
    let mut applier = Applier {
        root: fd,
        limits,
        bytes: 0,
        inodes: 0,
        unchecked: SPACE_CHECK,
        implied: BTreeMap::new(),
        implied_bytes: 0,
        times: Vec::new(),
        times_bytes: 0,
        parent: None,
    };
    let most = limits.bytes.saturating_add(limits.entries.saturating_mul(MAX_UNWRITTEN));
    let mut tar = TarReader::new(Bounded { inner: reader, left: most });
    while let Some(entry) = tar.next_entry().map_err(ApplyError::Read)? {
        applier.count_inode()?;
        applier.entry(&entry, &mut tar)?;
    }
    applier.finish()
}

impl Applier<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), ApplyError> {
        let path = clean(&entry.path)?;
        let Some(name) = path.file_name() else {
            // The root itself: its owner and mode are the container's root's.
            return if entry.kind == Kind::Directory {
                self.directory_attributes(&path, entry)
            } else {
                Ok(())
            };
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&path, &parent, hidden);
        }
        let was_whiteout = self.make_way(&path, &parent, name, entry.kind == Kind::Directory)?;
        match entry.kind {
            Kind::Directory => {
                match mkdirat(&*parent, name, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(at(&path, error)),
                }
                if was_whiteout {
                    self.opaque(&path)?;
                }
                return self.directory_attributes(&path, entry);
            }
            Kind::File => return self.file(&path, &parent, name, entry, data),
            Kind::Symlink => {
                symlinkat(OsStr::from_bytes(&entry.link), &*parent, name).map_err(|e| at(&path, e))?
            }
            Kind::HardLink => return self.hard_link(&path, &parent, name, entry),
            Kind::Character => self.node(&path, &parent, name, entry, SFlag::S_IFCHR)?,
            Kind::Block => self.node(&path, &parent, name, entry, SFlag::S_IFBLK)?,
            Kind::Fifo => self.node(&path, &parent, name, entry, SFlag::S_IFIFO)?,
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchownat(&*parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| at(&path, e))?;
        if entry.kind != Kind::Symlink {
            // Just made above as no link, by the only one who writes here.
            let mode = Mode::from_bits_truncate(entry.mode);
            fchmodat(&*parent, name, mode, FchmodatFlags::FollowSymlink).map_err(|e| at(&path, e))?;
        }
        let time = timespec(entry);
        utimensat(&*parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(|e| at(&path, e))
    }

    /// The directory an entry lies in, made if the layer did not describe it.
    fn parent(&mut self, path: &Path) -> Result<Rc<OwnedFd>, ApplyError> {
        if let Some((cached, fd)) = &self.parent
            && cached == path
        {
            return Ok(fd.clone());
        }
        let fd = match self.open_directory(path) {
            Err(Errno::ENOENT) => {
                let mut made = PathBuf::new();
                for part in path.components() {
                    made.push(part);
                    self.make_implied(&made)?;
                }
                self.open_directory(path)
            }
            other => other,
        };
        let fd = Rc::new(fd.map_err(|e| at(path, e))?);
        self.parent = Some((path.to_path_buf(), fd.clone()));
        Ok(fd)
    }

    fn make_implied(&mut self, path: &Path) -> Result<(), ApplyError> {
        if self.open_directory(path).is_ok() {
            return Ok(());
        }
        let parent = self.open_directory(path.parent().unwrap_or(Path::new(""))).map_err(|e| at(path, e))?;
        let name = path.file_name().ok_or_else(|| refused(path, "it has no name"))?;
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&parent, name, mode).map_err(|e| at(path, e))?;
        fchmodat(&parent, name, mode, FchmodatFlags::FollowSymlink).map_err(|e| at(path, e))?;
        self.count_inode()?;
        self.implied_bytes += path.as_os_str().len();
        if self.implied_bytes > MAX_IMPLIED {
            let what = "the names of directories that it does not describe";
            return Err(ApplyError::TooLarge { what, limit: MAX_IMPLIED as u64 });
        }
        let stat = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| at(path, e))?;
        self.implied.insert(stat.st_ino, path.to_path_buf());
        Ok(())
    }

    fn count_inode(&mut self) -> Result<(), ApplyError> {
        self.inodes += 1;
        if self.inodes > self.limits.entries {
            return Err(ApplyError::TooLarge { what: "the number of entries", limit: self.limits.entries });
        }
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV,
        );
        openat2(&self.root, path, how)
    }

    /// Removes what an earlier entry left under the name, except a directory that a directory replaces; tells
    /// whether that was a whiteout.
    fn make_way(
        &mut self,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        directory: bool,
    ) -> Result<bool, ApplyError> {
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(at(path, error)),
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            if !directory {
                self.parent = None;
                remove_tree(parent, name, 0).map_err(|e| at(path, e))?;
            }
            return Ok(false);
        }
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map_err(|e| at(path, e))?;
        Ok(kind == SFlag::S_IFCHR && stat.st_rdev == 0)
    }

    /// `.wh.<name>` hides `<name>` of the layers below; `.wh..wh..opq` hides all that a directory has below.
    fn whiteout(&mut self, path: &Path, parent: &Rc<OwnedFd>, hidden: &[u8]) -> Result<(), ApplyError> {
        if hidden == b".wh..opq" {
            return self.opaque(path.parent().unwrap_or(Path::new("")));
        }
        if hidden.starts_with(b".wh.") {
            return Ok(()); // aufs' own bookkeeping
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(path, "the whiteout hides no file name"));
        }
        let name = OsStr::from_bytes(hidden);
        match mknodat(&**parent, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            // The layer has the name itself, which hides what is below; a directory would be merged and must
            // not be.
            Err(Errno::EEXIST) => {
                let sibling = path.with_file_name(name);
                if self.is_directory(parent, name) { self.opaque(&sibling) } else { Ok(()) }
            }
            Err(error) => Err(at(path, error)),
        }
    }

    fn is_directory(&self, parent: &OwnedFd, name: &OsStr) -> bool {
        fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|s| s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
    }

    fn opaque(&self, path: &Path) -> Result<(), ApplyError> {
        let fd = self.open_directory(path).map_err(|e| at(path, e))?;
        rustix::fs::fsetxattr(&fd, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .map_err(|e| at(path, Errno::from_raw(e.raw_os_error())))
    }

    fn directory_attributes(&mut self, path: &Path, entry: &Entry) -> Result<(), ApplyError> {
        let fd = self.open_directory(path).map_err(|e| at(path, e))?;
        attributes(path, fd.as_fd(), entry)?;
        self.implied.remove(&fstat(&fd).map_err(|e| at(path, e))?.st_ino);
        // Its own entries still change the directory's time: set at the end.
        let size = path.as_os_str().len() + 64;
        if self.times_bytes + size <= MAX_TIMES {
            self.times_bytes += size;
            self.times.push((path.to_path_buf(), timespec(entry)));
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        data: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(parent, name, flags, Mode::from_bits_truncate(0o600)).map_err(|e| at(path, e))?;
        let mut file = std::fs::File::from(fd);
        match &entry.extents {
            None => self.copy(path, data, &mut file, entry.size)?,
            Some(extents) => {
                if entry.size > self.limits.bytes {
                    return Err(ApplyError::TooLarge { what: "the unpacked size", limit: self.limits.bytes });
                }
                for (offset, length) in extents {
                    file.seek(SeekFrom::Start(*offset)).map_err(|e| io_at(path, e))?;
                    self.copy(path, data, &mut file, *length)?;
                }
                ftruncate(&file, entry.size as i64).map_err(|e| at(path, e))?;
            }
        }
        attributes(path, file.as_fd(), entry)?;
        let time = timespec(entry);
        nix::sys::stat::futimens(&file, &time, &time).map_err(|e| at(path, e))
    }

    fn copy(
        &mut self,
        path: &Path,
        data: &mut impl Read,
        file: &mut std::fs::File,
        size: u64,
    ) -> Result<(), ApplyError> {
        let mut left = size;
        let mut buffer = vec![0_u8; (64 << 10).min(usize::try_from(size).unwrap_or(64 << 10))];
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = data.read(&mut buffer[..want]).map_err(ApplyError::Read)?;
            if read == 0 {
                return Err(ApplyError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            self.account(read as u64)?;
            file.write_all(&buffer[..read]).map_err(|e| io_at(path, e))?;
            left -= read as u64;
        }
        Ok(())
    }

    fn account(&mut self, bytes: u64) -> Result<(), ApplyError> {
        self.bytes += bytes;
        if self.bytes > self.limits.bytes {
            return Err(ApplyError::TooLarge { what: "the unpacked size", limit: self.limits.bytes });
        }
        self.unchecked += bytes;
        if self.unchecked >= SPACE_CHECK {
            self.unchecked = 0;
            let stat = rustix::fs::fstatvfs(&self.root).map_err(|e| ApplyError::Read(e.into()))?;
            if stat.f_bavail.saturating_mul(stat.f_frsize) < self.limits.reserve + SPACE_CHECK {
                return Err(ApplyError::NoSpace(self.limits.reserve));
            }
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        let target = clean(&entry.link)?;
        let target_name = target.file_name().ok_or_else(|| refused(path, "it links to the root"))?;
        let from =
            self.open_directory(target.parent().unwrap_or(Path::new(""))).map_err(|e| at(&target, e))?;
        linkat(&from, target_name, parent, name, AtFlags::empty()).map_err(|e| at(path, e))
    }

    fn node(
        &self,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        kind: SFlag,
    ) -> Result<(), ApplyError> {
        let device = makedev(u64::from(entry.device.0), u64::from(entry.device.1));
        let device = if kind == SFlag::S_IFIFO { 0 } else { device };
        mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device).map_err(|e| at(path, e))
    }

    fn finish(self) -> Result<Applied, ApplyError> {
        for (path, time) in self.times.iter().rev() {
            if let Ok(fd) = self.open_directory(path) {
                nix::sys::stat::futimens(&fd, time, time).map_err(|e| at(path, e))?;
            }
        }
        // Later entries may have removed a directory, or a link on the way to it.
        let is = |path: &Path| self.open_directory(path).and_then(fstat).map(|stat| stat.st_ino).ok();
        let there = self.implied.iter().filter(|(inode, path)| is(path) == Some(**inode));
        let mut implied: Vec<PathBuf> = there.map(|(_, path)| path.clone()).collect();
        implied.sort();
        Ok(Applied { bytes: self.bytes, inodes: self.inodes, implied })
    }
}

#[cfg(test)]
mod tests;
