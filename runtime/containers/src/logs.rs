//! Container logs in CRI's format: `<time> <stream> <P|F> <line>`. The file is opened for appending and reopened when the agent has rotated it.
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

mod place;

use place::Place;

/// The most of a line in one entry; longer ones are split into partial entries.
pub const MAX_LINE: usize = 16 << 10;
/// How much of a log's end is looked at for an entry that is not whole.
const TORN: usize = 2 * MAX_LINE;

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Turns a chunk of output into entries. What has no line end yet is a partial entry at once: nothing is held back that a crash could lose.
pub fn format(chunk: &[u8], stream: Stream, time: &str) -> Vec<u8> {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let mut entries = Vec::with_capacity(chunk.len() + 64);
    for line in chunk.split_inclusive(|byte| *byte == b'\n') {
        let (text, whole) = match line.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (line, false),
        };
        let mut parts = text.chunks(MAX_LINE).peekable();
        if parts.peek().is_none() {
            write_entry(&mut entries, time, name, whole, b"");
        }
        while let Some(part) = parts.next() {
            write_entry(&mut entries, time, name, whole && parts.peek().is_none(), part);
        }
    }
    entries
}

fn write_entry(entries: &mut Vec<u8>, time: &str, stream: &str, whole: bool, text: &[u8]) {
    let tag = if whole { "F" } else { "P" };
    entries.extend_from_slice(format!("{time} {stream} {tag} ").as_bytes());
    entries.extend_from_slice(text);
    entries.push(b'\n');
}

/// A file and where it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub inode: u64,
    /// Bytes.
    pub length: u64,
}

/// Now, as entries have it: always of the same length.
pub fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// One container's log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Mutex<Target>,
}

#[derive(Debug)]
struct Target {
    file: Option<File>,
    /// Where the file ends; nobody else writes to it.
    position: Position,
    /// Bytes of entries that could not be written since the last success.
    lost: u64,
}

impl LogFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, position) = open(path)?;
        Ok(Self { path: path.into(), file: Mutex::new(Target { file: Some(file), position, lost: 0 }) })
    }

    /// Opens the path anew, after a rotation.
    ///
    /// # Errors
    /// As open(2); the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let (file, position) = open(&self.path)?;
        let mut target = self.lock();
        (target.file, target.position) = (Some(file), position);
        Ok(())
    }

    /// The file and where it ends.
    pub fn position(&self) -> Position {
        self.lock().position
    }

    /// The length of the rotated log of `inode`, which lies beside this one.
    pub fn rotated(&self, inode: u64) -> Option<u64> {
        self.find_rotated(inode).map(|(_, length)| length)
    }

    fn find_rotated(&self, inode: u64) -> Option<(OsString, u64)> {
        Place::find(&self.path).ok()?.beside(inode)
    }

    /// Finishes what a kill interrupted: the file of `inode`, rotated or not, is cut to `length`, and the chunk appended.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn redo(&self, inode: u64, length: u64, chunk: &[u8], stream: Stream) -> io::Result<()> {
        {
            let mut target = self.lock();
            if target.position.inode == inode && length < target.position.length {
                if let Some(file) = &target.file {
                    file.set_len(length)?;
                }
                target.position.length = length;
            } else if target.position.inode != inode
                && let Some((name, longer)) = self.find_rotated(inode)
                && length < longer
            {
                Place::find(&self.path)?.open_beside(&name, inode)?.set_len(length)?;
            }
        }
        self.append(chunk, stream);
        Ok(())
    }

    /// Appends. A disk that takes nothing loses output rather than stopping the container; the loss is told once it ends.
    pub fn append(&self, chunk: &[u8], stream: Stream) {
        let entries = format(chunk, stream, &timestamp());
        let mut target = self.lock();
        let before = target.position.length;
        let result = match &mut target.file {
            Some(file) => file.write_all(&entries),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let Err(error) = result else {
            target.position.length = before + entries.len() as u64;
            if target.lost > 0 {
                tracing::warn!(path = %self.path.display(), bytes = target.lost, "container output was lost while the log could not be written");
                target.lost = 0;
            }
            return;
        };
        let kept = target.file.as_ref().map_or(0, |file| keep_whole(file, before, &entries));
        target.position.length = before + kept;
        if target.lost == 0 {
            tracing::error!(path = %self.path.display(), %error, "write a container log; output is being lost");
        }
        target.lost += entries.len() as u64 - kept;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Target> {
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A full disk may have taken a part of the entries: what is no whole one is cut off, or the next one would begin in its middle. Returns
/// how much stays.
fn keep_whole(file: &File, before: u64, entries: &[u8]) -> u64 {
    let length = file.metadata().map_or(before, |metadata| metadata.len());
    let written = usize::try_from(length.saturating_sub(before)).unwrap_or(usize::MAX);
    let whole = whole(entries, written) as u64;
    match file.set_len(before + whole) {
        Ok(()) => whole,
        Err(_) => length.saturating_sub(before),
    }
}

/// How much of the first `written` bytes are whole entries.
fn whole(entries: &[u8], written: usize) -> usize {
    let written = &entries[..written.min(entries.len())];
    written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn open(path: &Path) -> io::Result<(File, Position)> {
    use std::os::unix::fs::MetadataExt;
    let file = Place::find(path)?.open()?;
    let metadata = file.metadata()?;
    let length = cut_torn_end(&file, metadata.len())?;
    Ok((file, Position { inode: metadata.ino(), length }))
}

/// A power cut may leave an entry in part, or its length without its bytes, which are zeros then. The next entry would be taken for the rest of it. Returns
/// the length that is left.
fn cut_torn_end(file: &File, length: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let begin = length.saturating_sub(TORN as u64);
    let mut end = vec![0; usize::try_from(length - begin).unwrap_or(TORN)];
    file.read_exact_at(&mut end, begin)?;
    match end.iter().rposition(|byte| *byte == b'\n') {
        // What is longer than an entry is not ours.
        None if begin > 0 => Ok(length),
        last => {
            let whole = begin + last.map_or(0, |last| last as u64 + 1);
            if whole < length {
                file.set_len(whole)?;
            }
            Ok(whole)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunk: &[u8]) -> String {
        String::from_utf8(format(chunk, Stream::Stdout, "T")).unwrap()
    }

    proptest::proptest! {
        /// Whatever the bytes, and however they are cut, a reader gets them back, and no entry is longer than it may be.
        #[test]
        fn entries_hold_all_that_was_written(chunks in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200), 0..8), long in 0..3_usize) {
            let mut chunks = chunks;
            chunks.push(vec![b'x'; long * MAX_LINE]);
            let (mut whole, mut back) = (Vec::new(), Vec::new());
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                whole.extend_from_slice(chunk);
                let entries = format(chunk, Stream::Stderr, "T");
                // An entry's own text has no line end, so entries can be told apart.
                for entry in entries.split_inclusive(|byte| *byte == b'\n') {
                    let text = entry.strip_prefix(b"T stderr ").and_then(|rest| rest.strip_suffix(b"\n")).expect("an entry");
                    proptest::prop_assert!(text.len() <= MAX_LINE + 2);
                    back.extend_from_slice(&text[2..]);
                    if text[0] == b'F' {
                        back.push(b'\n');
                    }
                }
            }
            proptest::prop_assert_eq!(back, whole);
        }
    }

    #[test]
    fn lines_are_whole_or_partial() {
        assert_eq!(text(b"one\n\ntwo"), "T stdout F one\nT stdout F \nT stdout P two\n");
    }

    #[test]
    fn of_entries_that_were_written_in_part_the_whole_ones_stay() {
        let entries = b"T stdout F one\nT stdout F two\n";
        assert_eq!([0, 14, 15, 20, 30, 99].map(|written| whole(entries, written)), [0, 0, 15, 15, 30, 30]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, b"before\nT stdout F one\nT std").unwrap();
        let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(keep_whole(&file, 7, entries), 15);
        assert_eq!(std::fs::read(&path).unwrap(), b"before\nT stdout F one\n");
    }

    #[test]
    fn what_a_power_cut_left_of_an_entry_is_gone_when_the_log_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for torn in [b"T stdout F tw".as_slice(), &[0; 69], b""] {
            std::fs::write(&path, [b"T stdout F one\n".as_slice(), torn].concat()).unwrap();
            let log = LogFile::open(&path).unwrap();
            assert_eq!(log.position().length, 15);
            log.append(b"two\n", Stream::Stdout);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("T stdout F one\n2") && text.ends_with(" stdout F two\n"), "{text:?}");
        }
        std::fs::write(&path, [0; 100]).unwrap();
        assert_eq!(LogFile::open(&path).unwrap().position().length, 0);
        std::fs::write(&path, vec![b'x'; TORN + 1]).unwrap();
        assert_eq!(LogFile::open(&path).unwrap().position().length, TORN as u64 + 1);
    }

    #[test]
    fn a_long_line_is_split_and_only_its_end_is_whole() {
        let mut chunk = vec![b'x'; MAX_LINE + 1];
        chunk.push(b'\n');
        let text = text(&chunk);
        let tags: Vec<&str> = text.lines().map(|line| &line[9..10]).collect();
        assert_eq!(tags, ["P", "F"]);
    }
}
