//! A container's log as a stream of bytes: the last lines, and what is written from now on, across rotations (inotify(7)).
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstatat};
use node_kit::folder::Folder;
use tokio::sync::mpsc;

use super::log_line::{Formatter, LogOptions};
use crate::shared_file;

/// Of such chunks the connection to a slow client holds some.
const CHUNK: usize = 32 << 10;
/// The longest line that is kept together; the runtime splits at 16 KiB.
const MAX_LINE: usize = 256 << 10;

/// Sends the log at `path` until its end; with `follow`, until `ended` is ready and everything written before is sent, or the
/// receiver is gone.
///
/// # Errors
/// When the file cannot be read or watched.
pub(super) async fn send(
    path: PathBuf,
    options: LogOptions,
    ended: impl Future<Output = ()>,
    output: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    // The watch comes first, so that nothing written after the first reading is missed.
    let place = Arc::new(blocking(move || Place::open(&path)).await?);
    let mut watch = options.follow.then(|| Folder::watch_writes(place.path()));
    let mut reader = Reader::open(&place, options.tail).await?;
    let mut formatter = Formatter::new(options);
    let mut ended = std::pin::pin!(ended);
    let mut over = false;
    loop {
        if !drain(&mut reader, &mut formatter, &output).await? {
            return Ok(());
        }
        if reader.rotated(&place).await? {
            // Whatever was written between the last reading and the rename.
            if !drain(&mut reader, &mut formatter, &output).await? {
                return Ok(());
            }
            reader = Reader::open(&place, None).await?;
            continue;
        }
        let Some(watch) = watch.as_mut().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            () = watch.changed() => {}
            () = &mut ended => over = true,
            () = output.closed() => return Ok(()),
        }
    }
}

/// Sends everything up to the end of the file. False: nobody listens, or the limit is reached.
async fn drain(
    reader: &mut Reader,
    formatter: &mut Formatter,
    output: &mpsc::Sender<Bytes>,
) -> io::Result<bool> {
    loop {
        let mut shown = Vec::new();
        let (more, go_on) = reader.read(|line| formatter.push(line, &mut shown)).await?;
        if !shown.is_empty() && output.send(Bytes::from(shown)).await.is_err() {
            return Ok(false);
        }
        if !go_on {
            return Ok(false);
        }
        if !more {
            return Ok(true);
        }
    }
}

/// Where a log is: its name in a folder that is held open. The folder may be writable for pods that ship
/// logs, so nothing in it is followed or waited for, and a file that has another name elsewhere is not
/// taken for a log.
struct Place {
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    fn open(path: &Path) -> io::Result<Self> {
        let (folder, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(Self { folder: openat2(AT_FDCWD, folder, how)?, name: name.to_owned() })
    }

    /// The open folder: the link in procfs stands for it, whatever lies at its path by now.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.folder.as_raw_fd()).into()
    }

    fn file(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        shared_file::regular(openat(&self.folder, self.name.as_os_str(), flags, Mode::empty())?.into())
    }

    /// The device and the number of the file that has the name now, if there is one.
    fn current(&self) -> io::Result<Option<(u64, u64)>> {
        match fstatat(&self.folder, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(now) => Ok(Some((now.st_dev, now.st_ino))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads whole lines of one file.
struct Reader {
    file: Arc<File>,
    offset: u64,
    /// Bytes after the last newline.
    rest: Vec<u8>,
}

impl Reader {
    async fn open(place: &Arc<Place>, tail: Option<u64>) -> io::Result<Self> {
        let place = place.clone();
        blocking(move || {
            let file = place.file()?;
            let offset = match tail {
                Some(lines) => tail_offset(&file, lines)?,
                None => 0,
            };
            Ok(Self { file: Arc::new(file), offset, rest: Vec::new() })
        })
        .await
    }

    /// Reads one chunk and hands its whole lines to `line` until it says false. Answers whether there was anything, and whether to
    /// go on.
    async fn read(&mut self, mut line: impl FnMut(&[u8]) -> bool) -> io::Result<(bool, bool)> {
        let (file, offset) = (self.file.clone(), self.offset);
        let chunk = blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = file.read_at(&mut chunk, offset)?;
            chunk.truncate(read);
            Ok(chunk)
        })
        .await?;
        self.offset += chunk.len() as u64;
        self.rest.extend_from_slice(&chunk);
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            if !line(&self.rest[begin..begin + length]) {
                return Ok((true, false));
            }
            begin += length + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > MAX_LINE {
            // No log line is that long: this is no log.
            self.rest.clear();
        }
        Ok((!chunk.is_empty(), true))
    }

    /// Whether the log's name is another file's by now. One that is nobody's is a rotation half done.
    async fn rotated(&self, place: &Arc<Place>) -> io::Result<bool> {
        let (file, place) = (self.file.clone(), place.clone());
        blocking(move || {
            let own = file.metadata()?;
            Ok(place.current()?.is_some_and(|now| now != (own.dev(), own.ino())))
        })
        .await
    }
}

/// Where the last `lines` lines begin, read from the end.
fn tail_offset(file: &File, lines: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut chunk = vec![0; CHUNK];
    let mut end = size;
    let mut seen = 0;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        let length = usize::try_from(end - begin).unwrap_or(CHUNK);
        file.read_exact_at(&mut chunk[..length], begin)?;
        for (at, byte) in chunk[..length].iter().enumerate().rev() {
            let position = begin + at as u64;
            // The newline that ends the file begins no line.
            if *byte == b'\n' && position + 1 != size {
                seen += 1;
                if seen == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
