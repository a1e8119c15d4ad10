//! A container's output as a fuzz input describes it, written through all that can come between: kills and rotations.
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use containers::fuzzing::{Left, LogFile, MAX_LINE, Note, Stream, finish, format, timestamp};

/// A container's log with what was written to it, by stream.
#[derive(Debug)]
pub struct Life {
    folder: tempfile::TempDir,
    log: LogFile,
    rotations: usize,
    written: BTreeMap<String, Vec<u8>>,
}

impl Default for Life {
    /// # Panics
    /// When there can be no file.
    fn default() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let log = LogFile::open(&folder.path().join("0.log")).expect("a log");
        Self { folder, log, rotations: 0, written: BTreeMap::new() }
    }
}

/// A chunk as the runtime moves them at once: at most 16 KiB. A length from 0xf0 on repeats one byte instead.
fn chunk<'a>(input: &mut impl Iterator<Item = &'a u8>) -> Vec<u8> {
    match input.next().copied().unwrap_or(0) {
        long @ 0xf0.. => vec![input.next().copied().unwrap_or(b'x'); (usize::from(long) - 0xef) * 1024],
        short => input.take(usize::from(short)).copied().collect(),
    }
}

impl Life {
    /// Carries the input out: `o` and `e` with a chunk; `k` with a chunk that a kill interrupts, `K` the same with a rotation before
    /// the restart; `r` rotates.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn play(&mut self, input: &[u8]) {
        let mut input = input.iter();
        while let Some(what) = input.next() {
            let stream = if *what == b'e' { Stream::Stderr } else { Stream::Stdout };
            match what {
                b'r' => {
                    self.rotate();
                    self.log.reopen().expect("reopen the log");
                }
                b'k' | b'K' => {
                    let at = usize::from(input.next().copied().unwrap_or(0));
                    let bytes = chunk(&mut input);
                    self.note(stream, &bytes);
                    self.kill(bytes, stream, at, *what == b'K');
                }
                _ => {
                    let bytes = chunk(&mut input);
                    self.note(stream, &bytes);
                    self.log.append(&bytes, stream);
                }
            }
            let length = fs::metadata(self.path()).expect("the log").len();
            assert_eq!(self.log.position().length, length, "where the log ends");
        }
    }

    fn note(&mut self, stream: Stream, bytes: &[u8]) {
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        self.written.entry(name.into()).or_default().extend_from_slice(bytes);
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0.log")
    }

    fn rotate(&mut self) {
        self.rotations += 1;
        fs::rename(self.path(), self.folder.path().join(format!("0.log.{:05}", self.rotations)))
            .expect("rotate the log");
    }

    /// The process ends after `at` 255ths of the entries are written, and a new one goes on.
    fn kill(&mut self, bytes: Vec<u8>, stream: Stream, at: usize, rotated: bool) {
        let note = Note { container: "c".into(), stream, position: self.log.position() };
        let entries = format(&bytes, stream, &timestamp());
        let mut file = OpenOptions::new().append(true).open(self.path()).expect("the log");
        file.write_all(&entries[..entries.len() * at / 255]).expect("write the log");
        if rotated {
            self.rotate();
        }
        self.log = LogFile::open(&self.path()).expect("open the log again");
        // A pipe with nothing in it left nothing.
        if !bytes.is_empty() {
            finish(&Left { note, bytes }, &self.log).expect("finish the chunk");
        }
    }

    /// Reads the log as `kubectl logs` does.
    ///
    /// # Panics
    /// When an entry is malformed, or anything is missing or there twice.
    pub fn check(mut self) {
        let mut files: Vec<PathBuf> = (1..=self.rotations)
            .map(|number| self.folder.path().join(format!("0.log.{number:05}")))
            .collect();
        files.push(self.path());
        let mut read = BTreeMap::new();
        files.iter().for_each(|file| read_file(file, &mut read));
        self.written.retain(|_, bytes| !bytes.is_empty());
        assert!(read == self.written, "read: {read:?}\nwritten: {:?}", self.written);
    }
}

fn read_file(path: &Path, read: &mut BTreeMap<String, Vec<u8>>) {
    for line in fs::read(path).expect("a log").split_inclusive(|byte| *byte == b'\n') {
        let entry = line.strip_suffix(b"\n").expect("an entry that was cut");
        let mut parts = entry.splitn(4, |byte| *byte == b' ');
        let mut part = || parts.next().expect("time, stream, tag and text");
        let (time, stream, tag, text) = (part(), part(), part(), part());
        assert!(time.len() == 30 && time[10] == b'T' && time[19] == b'.' && time[29] == b'Z');
        assert!(matches!(tag, b"P" | b"F") && text.len() <= MAX_LINE);
        let stream = read.entry(String::from_utf8_lossy(stream).into_owned()).or_default();
        stream.extend_from_slice(text);
        if tag == b"F" {
            stream.push(b'\n');
        }
    }
}
