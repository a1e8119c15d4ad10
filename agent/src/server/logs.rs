//! A container's log as a stream of bytes: the last lines, and what is written from now on, across rotations (inotify(7)).
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::log_line::{Formatter, LogOptions};

const CHUNK: usize = 64 << 10;
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
    let watch = if options.follow { Some(Watch::new(&path)?) } else { None };
    let mut reader = Reader::open(&path, options.tail).await?;
    let mut formatter = Formatter::new(options);
    let mut ended = std::pin::pin!(ended);
    let mut over = false;
    loop {
        if !drain(&mut reader, &mut formatter, &output).await? {
            return Ok(());
        }
        if reader.rotated(&path)? {
            // Whatever was written between the last reading and the rename.
            if !drain(&mut reader, &mut formatter, &output).await? {
                return Ok(());
            }
            reader = Reader::open(&path, None).await?;
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
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

/// Reads whole lines of one file.
struct Reader {
    file: std::sync::Arc<File>,
    offset: u64,
    /// Bytes after the last newline.
    rest: Vec<u8>,
}

impl Reader {
    async fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let path = path.to_owned();
        blocking(move || {
            let file = File::open(&path)?;
            let offset = match tail {
                Some(lines) => tail_offset(&file, lines)?,
                None => 0,
            };
            Ok(Self { file: std::sync::Arc::new(file), offset, rest: Vec::new() })
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

    /// Whether the path names another file by now. A path that names none is a rotation half done.
    fn rotated(&self, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        match std::fs::metadata(path) {
            Ok(now) => Ok((now.dev(), now.ino()) != (own.dev(), own.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
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

/// Tells of writes to a log and of files that come and go beside it.
struct Watch(AsyncFd<Fd>);

struct Fd(Inotify);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    // Deprecated for types whose descriptor can change while registered; this one owns its inotify and never changes it.
    #[allow(deprecated)]
    fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, flags)?;
        Ok(Self(AsyncFd::new(Fd(inotify))?))
    }

    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
