//! How output gets from a container's pipe into its log without a loss or a copy too many, whenever this process is killed.
//!
//! Bytes that were read are gone from the pipe, and until they are in the log they are nowhere but in our memory. So they are never read: each chunk is
//! *moved* by the kernel into a pipe that PID 1 keeps too, looked at there (tee(2)), written to the log, and only then thrown away. Before it is moved a note says
//! whose it is and how long its log was, so that after a kill it can be told whether a chunk that is still there was written.
//!
//! A disk may be slow, and one log must not hold up what else the runtime does: a few threads write, each with a pipe and a note of its own, through which
//! a chunk goes the whole way within one call. A container has one thread, so that its chunks stay in order. What waits for a thread waits in the
//! container's own pipe.
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use node_kit::tasks::essential_thread;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::logs::{LogFile, Position, Stream};
use crate::pipes::CHUNK;

/// The pipes' name in PID 1's store.
pub const NAME: &str = "log-in-flight";
/// The note is overwritten in place; longer ones do not occur (an id has 64 characters).
const NOTE: usize = 256;
/// Threads that write logs. A disk that stands still holds up the containers that share one.
const WRITERS: usize = 4;
/// Turns that wait for a thread, of each container's outputs one at most; whoever has one more waits itself.
const WAITING: usize = 64;
/// The most chunks of a turn: what a pipe holds.
const TURN: usize = 4;
/// How long opening a log anew may take.
const REOPEN: Duration = Duration::from_secs(10);

/// Where chunks go.
pub trait Log: std::fmt::Debug + Send + Sync {
    /// The file and where it ends.
    fn position(&self) -> Position;
    /// Appends a chunk; what cannot be written is lost, and told.
    fn append(&self, chunk: &[u8], stream: Stream);
    /// Opens the path anew, after a rotation.
    ///
    /// # Errors
    /// As open(2).
    fn reopen(&self) -> io::Result<()>;
}

impl Log for LogFile {
    fn position(&self) -> Position {
        self.position()
    }

    fn append(&self, chunk: &[u8], stream: Stream) {
        self.append(chunk, stream);
    }

    fn reopen(&self) -> io::Result<()> {
        self.reopen()
    }
}

/// The way from pipes to logs.
#[derive(Debug)]
pub struct Transfer(Vec<Writer>);

/// A thread that writes logs; it ends when this is dropped.
#[derive(Debug)]
struct Writer {
    way: Arc<Mutex<Way>>,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Way) + Send>;

/// What is left in a container's output after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It has ended.
    Ended,
    /// Nothing is there for now.
    Empty,
    /// There may be more.
    More,
}

/// What a chunk goes through.
#[derive(Debug)]
struct Way {
    kept: Pipe,
    scratch: Pipe,
    note: File,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { read, write })
    }

    /// Reads what is there, up to the buffer's size.
    fn take(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match nix::unistd::read(&self.read, buffer) {
            Err(nix::Error::EAGAIN) => Ok(0),
            other => Ok(other?),
        }
    }
}

/// Whose chunk is on its way, and where its log ended before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub container: String,
    pub stream: Stream,
    pub position: Position,
}

/// A chunk that a former life of this process left on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub note: Note,
    pub bytes: Vec<u8>,
}

impl Transfer {
    /// With the pipes that were kept, or new ones; the notes lie at `note` and beside it.
    ///
    /// # Errors
    /// When there can be no pipe, no file or no thread.
    pub fn new(kept: Vec<OwnedFd>, note: &Path) -> io::Result<Self> {
        let mut kept = kept.into_iter();
        let mut writers = Vec::with_capacity(WRITERS);
        for number in 0..WRITERS {
            let kept = match (kept.next(), kept.next()) {
                (Some(read), Some(write)) => Pipe { read, write },
                _ => Pipe::new()?,
            };
            // A former version has one pipe and one note, which are the first ones.
            let mut path = note.as_os_str().to_owned();
            if number > 0 {
                path.push(format!("-{number}"));
            }
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let note = options.open(path)?;
            // Its room is taken now, so that a note can be written when there is no other.
            if note.metadata()?.len() < NOTE as u64 {
                note.write_all_at(&[b' '; NOTE], 0)?;
            }
            writers.push(Writer::start(Way { kept, scratch: Pipe::new()?, note, buffer: vec![0; CHUNK] })?);
        }
        Ok(Self(writers))
    }

    /// Whether a former life kept all the pipes, if it kept so many descriptors.
    pub fn knows(descriptors: usize) -> bool {
        descriptors == 2 * WRITERS
    }

    /// For PID 1's store: numbers of the pipes' ends.
    pub fn raw(&self) -> Vec<std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        let ends = |way: MutexGuard<'_, Way>| [way.kept.read.as_raw_fd(), way.kept.write.as_raw_fd()];
        self.0.iter().flat_map(|writer| ends(writer.lock())).collect()
    }

    /// What a former life left on its way; it stays there until [`Transfer::forget`].
    ///
    /// # Errors
    /// As tee(2) and read(2), for each pipe.
    pub fn left(&self) -> Vec<io::Result<Left>> {
        self.0.iter().filter_map(|writer| writer.lock().left().transpose()).collect()
    }

    /// Throws away what is in the kept pipes.
    ///
    /// # Errors
    /// The first of them, as read(2).
    pub fn forget(&self) -> io::Result<()> {
        let all: Vec<_> = self.0.iter().map(|writer| writer.lock().drain()).collect();
        all.into_iter().collect()
    }

    /// Moves what is in `from`, as much as a pipe holds, into the log and shows it to `deliver`.
    ///
    /// # Errors
    /// As splice(2), tee(2) and read(2).
    pub async fn step(
        &self,
        from: Arc<AsyncFd<OwnedFd>>,
        container: &str,
        stream: Stream,
        log: Arc<dyn Log>,
        mut deliver: impl FnMut(&[u8]) + Send + 'static,
    ) -> io::Result<Rest> {
        let owner = container.to_owned();
        self.does(container, move |way| way.turn(from.get_ref(), &owner, stream, &*log, &mut deliver)).await
    }

    /// Opens a container's log anew, between two of its chunks.
    ///
    /// # Errors
    /// As open(2); `TimedOut` when the disk does not answer.
    pub async fn reopen(&self, container: &str, log: Arc<dyn Log>) -> io::Result<()> {
        let reopened = self.does(container, move |_| log.reopen());
        tokio::time::timeout(REOPEN, reopened).await.unwrap_or_else(|_| {
            let why = format!("the disk of the log has not answered within {} s", REOPEN.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }

    /// Has the container's writer do something.
    async fn does<T: Send + 'static>(
        &self,
        container: &str,
        work: impl FnOnce(&mut Way) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the thread that writes logs has ended");
        let mut hasher = DefaultHasher::new();
        container.hash(&mut hasher);
        let writer = self.0.get(hasher.finish() as usize % self.0.len().max(1)).ok_or_else(gone)?;
        let (sender, result) = oneshot::channel();
        let job = Box::new(move |way: &mut Way| drop(sender.send(work(way))));
        writer.jobs.send(job).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Writer {
    fn start(way: Way) -> io::Result<Self> {
        let way = Arc::new(Mutex::new(way));
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING);
        let ours = Arc::clone(&way);
        essential_thread("logs", std::thread::Builder::new().stack_size(256 << 10), move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&mut ours.lock().unwrap_or_else(PoisonError::into_inner));
            }
        })?;
        Ok(Self { way, jobs })
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    /// What a former life left on its way.
    fn left(&mut self) -> io::Result<Option<Left>> {
        let size = self.look()?;
        if size == 0 {
            return Ok(None);
        }
        let mut note = vec![0; NOTE];
        let length = self.note.read_at(&mut note, 0)?;
        let bytes = self.buffer[..size].to_vec();
        let note = std::str::from_utf8(&note[..length]).unwrap_or_default().trim_end();
        // Without a note it is nobody's.
        Ok(serde_json::from_str(note).ok().map(|note| Left { note, bytes }))
    }

    /// Moves chunk after chunk, but no more than a pipe holds: others want their turn.
    fn turn(
        &mut self,
        from: &OwnedFd,
        container: &str,
        stream: Stream,
        log: &dyn Log,
        deliver: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Rest> {
        for _ in 0..TURN {
            match self.step(from, container, stream, log, deliver) {
                Ok(0) => return Ok(Rest::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Rest::Empty),
                Err(error) => return Err(error),
            }
        }
        Ok(Rest::More)
    }

    /// Moves one chunk the whole way; returns how much it was, 0 at the end.
    fn step(
        &mut self,
        from: &OwnedFd,
        container: &str,
        stream: Stream,
        log: &dyn Log,
        deliver: &mut dyn FnMut(&[u8]),
    ) -> io::Result<usize> {
        let note = Note { container: container.to_owned(), stream, position: log.position() };
        self.write_note(&note)?;
        match sys::pipe::move_bytes(from, &self.kept.write, CHUNK) {
            Ok(0) => return Ok(0),
            // A terminal's end.
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let size = self.look()?;
        log.append(&self.buffer[..size], stream);
        self.drain()?;
        deliver(&self.buffer[..size]);
        Ok(size)
    }

    /// Fills the buffer with what is in the kept pipe, which stays there.
    fn look(&mut self) -> io::Result<usize> {
        let copied = match sys::pipe::copy_bytes(&self.kept.read, &self.scratch.write, CHUNK) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            other => other?,
        };
        let mut size = 0;
        while size < copied {
            match self.scratch.take(&mut self.buffer[size..copied])? {
                0 => break,
                more => size += more,
            }
        }
        Ok(size)
    }

    fn drain(&self) -> io::Result<()> {
        let mut waste = [0; 4096];
        while self.kept.take(&mut waste)? > 0 {}
        Ok(())
    }

    /// In one write of always the same length: it is there as a whole or not at all.
    fn write_note(&mut self, note: &Note) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(NOTE);
        serde_json::to_writer(&mut bytes, note)?;
        if bytes.len() > NOTE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a container's id is too long for a note",
            ));
        }
        bytes.resize(NOTE, b' ');
        self.note.write_all_at(&bytes, 0)?;
        self.note.flush()
    }
}

/// What to do about a chunk that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// It was written as a whole.
    Nothing,
    /// It was written in part or not at all: cut the log to this length, then write.
    Write { length: u64 },
}

/// Decides from how long the log is now.
pub fn repair(left: &Left, length: u64) -> Repair {
    let entries = crate::logs::format(&left.bytes, left.note.stream, &crate::logs::timestamp()).len() as u64;
    if length >= left.note.position.length + entries {
        Repair::Nothing
    } else {
        Repair::Write { length: left.note.position.length.min(length) }
    }
}

/// Brings a chunk to its log that was on its way when a former life of this process ended.
///
/// # Errors
/// As ftruncate(2).
pub fn finish(left: &Left, log: &LogFile) -> io::Result<()> {
    let (now, inode) = (log.position(), left.note.position.inode);
    // A log that was rotated meanwhile: the one the note means lies beside it.
    let length = if now.inode == inode { Some(now.length) } else { log.rotated(inode) };
    match length.map(|length| repair(left, length)) {
        Some(Repair::Nothing) => Ok(()),
        Some(Repair::Write { length }) => log.redo(inode, length, &left.bytes, left.note.stream),
        None => log.redo(inode, 0, &left.bytes, left.note.stream),
    }
}

#[cfg(test)]
mod tests;
