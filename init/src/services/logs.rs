//! Services' output: each line to the service's file (rotated) and to the console. A thread of its own writes the files, so a slow disk
//! delays logs and nothing else; before the state volume is mounted the lines wait in a bounded buffer.
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::paths;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use crate::console;

const ROTATE_AT: u64 = 10 << 20;
const OLD_FILES: u32 = 2;
const EARLY_BYTES: usize = 256 << 10;
const LONGEST_LINE: usize = 16 << 10;
/// How long a reader waits for the writing thread before it drops a piece.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Message {
    Text { service: &'static str, bytes: Vec<u8> },
    Open,
    Close(oneshot::Sender<()>),
}

/// Cloneable handle to the log writer.
#[derive(Debug, Clone)]
pub struct LogSink {
    sender: mpsc::Sender<Message>,
}

impl LogSink {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(64);
        std::thread::Builder::new().name("logs".into()).spawn(move || write_all(receiver))?;
        Ok(Self { sender })
    }

    /// The state volume is mounted: write what waited, and from now on directly.
    pub async fn open(&self) {
        let _ = self.sender.send(Message::Open).await;
    }

    /// Closes the files, before the volume is unmounted.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.sender.send(Message::Close(done)).await.is_ok() {
            let _ = tokio::time::timeout(PATIENCE, closed).await;
        }
    }

    /// Reads a service's output until its last writer is gone.
    pub fn follow(&self, service: &'static str, pipe: OwnedFd) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if let Err(error) = read_all(service, pipe, sender).await {
                tracing::warn!("read the output of {service}: {error}");
            }
        });
    }
}

async fn read_all(
    service: &'static str,
    pipe: OwnedFd,
    sender: mpsc::Sender<Message>,
) -> std::io::Result<()> {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)?;
    let mut partial = Vec::new();
    let mut dropped = 0_usize;
    loop {
        // Held only while there is something to read.
        pipe.readable().await?;
        let mut bytes = vec![0; 8 << 10];
        let count = pipe.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        bytes.truncate(count);
        to_console(service, &bytes, &mut partial);
        if dropped > 0 {
            bytes.splice(0..0, format!("\npintle: {dropped} bytes of output were lost\n").into_bytes());
        }
        let length = bytes.len();
        match sender.send_timeout(Message::Text { service, bytes }, PATIENCE).await {
            Ok(()) => dropped = 0,
            Err(_) => dropped += length,
        }
    }
}

fn to_console(service: &str, bytes: &[u8], partial: &mut Vec<u8>) {
    if console::is_quiet() {
        return;
    }
    partial.extend_from_slice(bytes);
    while let Some(end) = partial.iter().position(|b| *b == b'\n') {
        console::service_line(service, &partial[..end]);
        partial.drain(..=end);
    }
    if partial.len() > LONGEST_LINE {
        console::service_line(service, partial);
        partial.clear();
    }
}

/// The current log file of a service.
pub fn log_path(service: &str) -> PathBuf {
    Path::new(paths::SERVICE_LOGS).join(format!("{service}.log"))
}

fn write_all(mut receiver: mpsc::Receiver<Message>) {
    let mut early: VecDeque<(&'static str, Vec<u8>)> = VecDeque::new();
    let mut early_bytes = 0;
    let mut files: Option<Vec<(&'static str, LogFile)>> = None;
    while let Some(message) = receiver.blocking_recv() {
        match message {
            Message::Text { service, bytes } => match &mut files {
                Some(files) => append(files, service, &bytes),
                None => {
                    early_bytes += bytes.len();
                    early.push_back((service, bytes));
                    while early_bytes > EARLY_BYTES {
                        early_bytes -= early.pop_front().map_or(early_bytes, |(_, b)| b.len());
                    }
                }
            },
            Message::Open => {
                if let Err(error) = fs::create_dir_all(paths::SERVICE_LOGS) {
                    tracing::warn!("create {}: {error}", paths::SERVICE_LOGS);
                }
                // What was open may lie below a volume that is mounted now.
                files = None;
                let opened = files.get_or_insert_default();
                for (service, bytes) in early.drain(..) {
                    append(opened, service, &bytes);
                }
                early_bytes = 0;
            }
            Message::Close(done) => {
                files = None;
                let _ = done.send(());
            }
        }
    }
}

fn append(files: &mut Vec<(&'static str, LogFile)>, service: &'static str, bytes: &[u8]) {
    let index = match files.iter().position(|(name, _)| *name == service) {
        Some(index) => index,
        None => {
            files.push((service, LogFile::new(log_path(service))));
            files.len() - 1
        }
    };
    files[index].1.append(bytes);
}

/// A file that is renamed away at its limit.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
    complained: bool,
}

impl LogFile {
    fn new(path: PathBuf) -> Self {
        Self { path, open: None, complained: false }
    }

    fn append(&mut self, bytes: &[u8]) {
        match self.try_append(bytes) {
            Ok(()) => self.complained = false,
            // Once per trouble, not once per line.
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!("write {}: {error}; lines are lost until it works again", self.path.display());
            }
            Err(_) => {}
        }
    }

    fn try_append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, size)| size + bytes.len() as u64 > ROTATE_AT) {
            self.open = None;
            self.rotate();
        }
        if self.open.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let size = file.metadata()?.len();
            self.open = Some((file, size));
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(bytes)?;
            *size += bytes.len() as u64;
        }
        Ok(())
    }

    fn rotate(&self) {
        let old = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..OLD_FILES).rev() {
            let _ = fs::rename(old(n), old(n + 1));
        }
        let _ = fs::rename(&self.path, old(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_limit_and_three_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.log");
        let mut log = LogFile::new(path.clone());
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..45 {
            log.append(&piece);
        }
        let size = |suffix: &str| fs::metadata(format!("{}{suffix}", path.display())).map(|m| m.len()).ok();
        assert_eq!(size(""), Some(5 << 20));
        assert_eq!(size(".1"), Some(ROTATE_AT));
        assert_eq!(size(".2"), Some(ROTATE_AT));
        assert_eq!(size(".3"), None);
    }
}
