//! How output gets from a container's pipe into its log without a loss or a copy too many, whenever this process is killed.
//!
//! Bytes that were read are gone from the pipe, and until they are in the log they are nowhere but in our memory. So they are never read: each chunk is
//! *moved* by the kernel into a pipe that PID 1 keeps too, looked at there (tee(2)), written to the log, and only then thrown away. Before it is moved a note says
//! whose it is and how long its log was, so that after a kill it can be told whether a chunk that is still there was written.
//!
//! One such pipe is enough for all containers: a chunk goes the whole way within one call.
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::io::CHUNK;
use crate::logs::{LogFile, Position, Stream};

/// The pipe's name in PID 1's store.
pub const NAME: &str = "log-in-flight";
/// The note is overwritten in place; longer ones do not occur (an id has 64 characters).
const NOTE: usize = 256;

/// The way from pipes to logs.
#[derive(Debug)]
pub struct Transfer(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
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
    /// With the pipe that was kept, or a new one; the note lies at `note`.
    ///
    /// # Errors
    /// When there can be no pipe or no file.
    pub fn new(kept: Vec<OwnedFd>, note: &Path) -> io::Result<Self> {
        let mut kept = kept.into_iter();
        let kept = match (kept.next(), kept.next()) {
            (Some(read), Some(write)) => Pipe { read, write },
            _ => Pipe::new()?,
        };
        let note = File::options().read(true).write(true).create(true).truncate(false).open(note)?;
        // Its room is taken now, so that a note can be written when there is no other.
        if note.metadata()?.len() < NOTE as u64 {
            note.write_all_at(&[b' '; NOTE], 0)?;
        }
        Ok(Self(Mutex::new(Inner { kept, scratch: Pipe::new()?, note, buffer: vec![0; CHUNK] })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For PID 1's store: numbers of the pipe's ends.
    pub fn raw(&self) -> [std::os::fd::RawFd; 2] {
        use std::os::fd::AsRawFd;
        let inner = self.lock();
        [inner.kept.read.as_raw_fd(), inner.kept.write.as_raw_fd()]
    }

    /// What a former life left on its way; it stays there until [`Transfer::forget`].
    ///
    /// # Errors
    /// As tee(2) and read(2).
    pub fn left(&self) -> io::Result<Option<Left>> {
        let mut inner = self.lock();
        let size = inner.look()?;
        if size == 0 {
            return Ok(None);
        }
        let mut note = vec![0; NOTE];
        let length = inner.note.read_at(&mut note, 0)?;
        let bytes = inner.buffer[..size].to_vec();
        let note = std::str::from_utf8(&note[..length]).unwrap_or_default().trim_end();
        // Without a note it is nobody's.
        Ok(serde_json::from_str(note).ok().map(|note| Left { note, bytes }))
    }

    /// Throws away what is in the kept pipe.
    ///
    /// # Errors
    /// As read(2).
    pub fn forget(&self) -> io::Result<()> {
        self.lock().drain()
    }

    /// Moves what is in `from` into the log and shows it to `deliver`; returns how much it was, 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; as splice(2).
    pub fn step(
        &self,
        from: &OwnedFd,
        container: &str,
        stream: Stream,
        log: &LogFile,
        deliver: impl FnOnce(&[u8]),
    ) -> io::Result<usize> {
        let mut inner = self.lock();
        let note = Note { container: container.to_owned(), stream, position: log.position() };
        inner.write_note(&note)?;
        match sys::pipe::move_bytes(from, &inner.kept.write, CHUNK) {
            Ok(0) => return Ok(0),
            // A terminal's end.
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let size = inner.look()?;
        log.append(&inner.buffer[..size], stream);
        inner.drain()?;
        deliver(&inner.buffer[..size]);
        Ok(size)
    }
}

impl Inner {
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
mod tests {
    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        transfer: Transfer,
        log: LogFile,
        pipe: Pipe,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let transfer = Transfer::new(Vec::new(), &folder.path().join("note")).unwrap();
        let log = LogFile::open(&folder.path().join("log")).unwrap();
        Bench { folder, transfer, log, pipe: Pipe::new().unwrap() }
    }

    #[test]
    fn output_goes_into_the_log_and_to_whoever_is_attached() {
        let bench = bench();
        nix::unistd::write(&bench.pipe.write, b"one\ntwo\n").unwrap();
        let mut seen = Vec::new();
        let step = |seen: &mut Vec<u8>| {
            bench.transfer.step(&bench.pipe.read, "id", Stream::Stdout, &bench.log, |bytes| {
                seen.extend_from_slice(bytes)
            })
        };
        assert_eq!(step(&mut seen).unwrap(), 8);
        assert_eq!(seen, b"one\ntwo\n");
        assert_eq!(step(&mut seen).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let text = std::fs::read_to_string(bench.folder.path().join("log")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(bench.transfer.left().unwrap(), None);
    }

    /// What a kill leaves is told apart by the log's length, at every point of the way.
    #[test]
    fn a_chunk_that_was_left_is_written_once() {
        let bench = bench();
        bench.log.append(b"before\n", Stream::Stdout);
        nix::unistd::write(&bench.pipe.write, b"chunk\n").unwrap();
        let position = bench.log.position();
        {
            let mut inner = bench.transfer.lock();
            inner.write_note(&Note { container: "id".into(), stream: Stream::Stderr, position }).unwrap();
            sys::pipe::move_bytes(&bench.pipe.read, &inner.kept.write, CHUNK).unwrap();
        }
        let left = bench.transfer.left().unwrap().unwrap();
        assert_eq!((&*left.note.container, &left.bytes[..]), ("id", &b"chunk\n"[..]));
        let whole = crate::logs::format(b"chunk\n", Stream::Stderr, &crate::logs::timestamp()).len() as u64;
        assert_eq!(repair(&left, position.length), Repair::Write { length: position.length });
        assert_eq!(repair(&left, position.length + 5), Repair::Write { length: position.length });
        assert_eq!(repair(&left, position.length + whole), Repair::Nothing);
        // Asking changes nothing; forgetting does.
        assert!(bench.transfer.left().unwrap().is_some());
        bench.transfer.forget().unwrap();
        assert_eq!(bench.transfer.left().unwrap(), None);
    }
}
