//! Container logs in CRI's format: `<time> <stream> <P|F> <line>`. The file is opened for appending and reopened when the agent has rotated it.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The most of a line in one entry; longer ones are split into partial entries.
pub const MAX_LINE: usize = 16 << 10;

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// One container's log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Mutex<Target>,
}

#[derive(Debug)]
struct Target {
    file: Option<File>,
    /// Bytes that could not be written since the last success.
    lost: u64,
}

impl LogFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), file: Mutex::new(Target { file: Some(open(path)?), lost: 0 }) })
    }

    /// Opens the path anew, after a rotation.
    ///
    /// # Errors
    /// As open(2); the old file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let file = open(&self.path)?;
        self.lock().file = Some(file);
        Ok(())
    }

    /// Appends. A disk that takes nothing loses output rather than stopping the container; the loss is told once it ends.
    pub fn append(&self, chunk: &[u8], stream: Stream) {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
        let entries = format(chunk, stream, &time);
        let mut target = self.lock();
        let result = match &mut target.file {
            Some(file) => file.write_all(&entries),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match result {
            Ok(()) if target.lost > 0 => {
                tracing::warn!(path = %self.path.display(), bytes = target.lost, "container output was lost while the log could not be written");
                target.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if target.lost == 0 {
                    tracing::error!(path = %self.path.display(), %error, "write a container log; output is being lost");
                }
                target.lost += chunk.len() as u64;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Target> {
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunk: &[u8]) -> String {
        String::from_utf8(format(chunk, Stream::Stdout, "T")).unwrap()
    }

    #[test]
    fn lines_are_whole_or_partial() {
        assert_eq!(text(b"one\n\ntwo"), "T stdout F one\nT stdout F \nT stdout P two\n");
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
