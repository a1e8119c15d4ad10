//! Services' output: each line to the service's file (rotated) and to the console. A thread of its own writes the files. What it has not written yet
//! waits in memory, so much of each service; what is more is dropped and counted, and a line says how much it was. So neither a slow disk nor one that
//! stands still keeps a service from writing to its standard error.
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use machine::paths;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use crate::console;

const ROTATE_AT: u64 = 10 << 20;
const OLD_FILES: u32 = 2;
const EARLY_BYTES: usize = 256 << 10;
const LONGEST_LINE: usize = 16 << 10;
/// The most output of a service that waits for the disk, in bytes.
const WAITING: usize = 256 << 10;
/// How long closing the files may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Message {
    /// `waits` counts it until it is written.
    Text {
        service: &'static str,
        bytes: Vec<u8>,
        waits: Arc<AtomicUsize>,
    },
    Open,
    Close(oneshot::Sender<()>),
}

/// Cloneable handle to the log writer.
#[derive(Debug, Clone)]
pub struct LogSink {
    /// Its length is bounded by what of each service may wait.
    sender: mpsc::UnboundedSender<Message>,
}

impl LogSink {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("logs".into()).spawn(move || write_all(receiver))?;
        Ok(Self { sender })
    }

    /// The state volume is mounted: write what waited, and from now on directly.
    pub fn open(&self) {
        let _ = self.sender.send(Message::Open);
    }

    /// Closes the files, before the volume is unmounted.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.sender.send(Message::Close(done)).is_ok() {
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
    sender: mpsc::UnboundedSender<Message>,
) -> std::io::Result<()> {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe)?;
    let mut partial = Vec::new();
    let mut hand_over = HandOver { service, sender, waits: Arc::default(), lost: 0 };
    loop {
        // Held only while there is something to read.
        pipe.readable().await?;
        let mut bytes = vec![0; 8 << 10];
        let count = pipe.read(&mut bytes).await?;
        if count == 0 {
            hand_over.say_lost();
            return Ok(());
        }
        bytes.truncate(count);
        to_console(service, &bytes, &mut partial);
        hand_over.piece(bytes);
    }
}

/// From a service's pipe to the writing thread.
#[derive(Debug)]
struct HandOver {
    service: &'static str,
    sender: mpsc::UnboundedSender<Message>,
    /// How many bytes of the service are not written yet.
    waits: Arc<AtomicUsize>,
    /// How many were dropped since the last line that says so.
    lost: usize,
}

impl HandOver {
    fn piece(&mut self, bytes: Vec<u8>) {
        if self.waits.load(Ordering::Relaxed) + bytes.len() > WAITING {
            self.lost += bytes.len();
            return;
        }
        self.say_lost();
        self.send(bytes);
    }

    fn say_lost(&mut self) {
        if self.lost > 0 {
            let line =
                format!("\npintle: {} bytes of output were lost: the disk did not keep up\n", self.lost);
            self.lost = 0;
            self.send(line.into_bytes());
        }
    }

    fn send(&self, bytes: Vec<u8>) {
        self.waits.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ =
            self.sender.send(Message::Text { service: self.service, bytes, waits: Arc::clone(&self.waits) });
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

fn write_all(mut receiver: mpsc::UnboundedReceiver<Message>) {
    let mut early = Early::default();
    let mut files: Option<Vec<(&'static str, LogFile)>> = None;
    while let Some(message) = receiver.blocking_recv() {
        match message {
            Message::Text { service, bytes, waits } => {
                let length = bytes.len();
                match &mut files {
                    Some(files) => append(files, service, &bytes),
                    None => early.keep(service, bytes),
                }
                waits.fetch_sub(length, Ordering::Relaxed);
            }
            Message::Open => {
                if let Err(error) = fs::create_dir_all(paths::SERVICE_LOGS) {
                    tracing::warn!("create {}: {error}", paths::SERVICE_LOGS);
                }
                // What was open may lie below a volume that is mounted now.
                let opened = files.insert(Vec::new());
                for (service, bytes) in early.take() {
                    append(opened, service, &bytes);
                }
            }
            Message::Close(done) => {
                files = None;
                let _ = done.send(());
            }
        }
    }
}

/// Output of before there is a disk; the oldest gives way.
#[derive(Debug, Default)]
struct Early {
    pieces: VecDeque<(&'static str, Vec<u8>)>,
    bytes: usize,
    /// Of each service what gave way.
    lost: BTreeMap<&'static str, usize>,
}

impl Early {
    fn keep(&mut self, service: &'static str, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.pieces.push_back((service, bytes));
        while self.bytes > EARLY_BYTES {
            let Some((service, oldest)) = self.pieces.pop_front() else { return };
            self.bytes -= oldest.len();
            *self.lost.entry(service).or_default() += oldest.len();
        }
    }

    /// All of it, with a line first where something is missing.
    fn take(&mut self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { pieces, lost, .. } = std::mem::take(self);
        let line = |(service, lost): (&'static str, usize)| {
            let text =
                format!("pintle: {lost} bytes of output of before the state volume was there were lost\n");
            (service, text.into_bytes())
        };
        lost.into_iter().map(line).chain(pieces).collect()
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

    #[tokio::test]
    async fn a_disk_that_stands_still_blocks_no_service_and_what_is_lost_is_said() {
        const WRITTEN: usize = 8 << 20;
        let (read, mut write) = std::io::pipe().unwrap();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let service = std::thread::spawn(move || write.write_all(&vec![b'x'; WRITTEN]).unwrap());
        // Nobody receives meanwhile, as while a write to the disk does not come back.
        read_all("agent", read.into(), sender).await.unwrap();
        service.join().unwrap();
        let (mut kept, mut said) = (0, Vec::new());
        while let Ok(Message::Text { bytes, .. }) = receiver.try_recv() {
            match bytes.iter().all(|byte| *byte == b'x') {
                true => kept += bytes.len(),
                false => said.push(String::from_utf8(bytes).unwrap()),
            }
        }
        assert!(kept > WAITING / 2 && kept <= WAITING, "{kept}");
        let expected = format!("pintle: {} bytes of output were lost", WRITTEN - kept);
        assert!(said.len() == 1 && said[0].contains(&expected), "{said:?}");
    }

    #[test]
    fn what_comes_after_a_loss_comes_after_the_line_that_says_it() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut hand_over = HandOver { service: "agent", sender, waits: Arc::default(), lost: 0 };
        hand_over.piece(vec![b'a'; WAITING]);
        hand_over.piece(vec![b'b'; 10]);
        // The disk has taken the first one.
        hand_over.waits.store(0, Ordering::Relaxed);
        hand_over.piece(vec![b'c'; 10]);
        let mut next = || match receiver.try_recv() {
            Ok(Message::Text { bytes, .. }) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(next().starts_with("aaa"));
        assert!(next().contains("10 bytes of output were lost"));
        assert_eq!(next(), "cccccccccc");
    }

    #[test]
    fn what_gave_way_before_there_was_a_disk_is_said() {
        let mut early = Early::default();
        for _ in 0..3 {
            early.keep("net", vec![b'x'; EARLY_BYTES / 2]);
        }
        let kept = early.take();
        assert_eq!(kept.len(), 3);
        assert!(String::from_utf8_lossy(&kept[0].1).contains(&format!("{} bytes", EARLY_BYTES / 2)));
        assert!(early.take().is_empty());
    }

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
