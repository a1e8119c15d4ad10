//! A container's standard streams: pipes or a terminal, read into the log and to whoever is attached.
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use node_kit::tasks::sound;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, broadcast};

use crate::logs::{LogFile, Stream};
use crate::pipes::{CHUNK, Ours, read, watch};
use crate::transfer::{Log, Rest, Transfer};

/// Chunks an attached client may lag behind before it loses some.
const ATTACH_BACKLOG: usize = 64;

/// How long output may keep coming after a process has ended: whatever it has started may hold its pipes open
/// for ever.
pub const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The runtime's side of the streams.
#[derive(Debug)]
pub struct ContainerIo {
    container: String,
    log: Option<Arc<dyn Log>>,
    transfer: Arc<Transfer>,
    output: broadcast::Sender<(Stream, Bytes)>,
    /// The write end of stdin; gone once it is closed.
    pub stdin: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    /// The terminal's master side.
    pub terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    open: tokio::sync::watch::Sender<usize>,
}

impl ContainerIo {
    /// Starts reading. With one output it is a terminal's.
    ///
    /// # Errors
    /// When a descriptor cannot be watched.
    pub fn start(
        container: &str,
        ours: Ours,
        log: Option<Arc<impl Log + 'static>>,
        transfer: Arc<Transfer>,
    ) -> io::Result<Arc<Self>> {
        let outputs = ours.outputs.into_iter().map(watch).collect::<io::Result<Vec<_>>>()?;
        let terminal = (outputs.len() == 1).then(|| Arc::clone(&outputs[0]));
        let stdin = ours.stdin.map(watch).transpose()?;
        let io = Arc::new(Self {
            container: container.to_owned(),
            log: log.map(|log| -> Arc<dyn Log> { log }),
            transfer,
            output: broadcast::channel(ATTACH_BACKLOG).0,
            stdin: Mutex::new(stdin.or_else(|| terminal.clone())),
            terminal,
            open: tokio::sync::watch::Sender::new(outputs.len()),
        });
        for (output, stream) in outputs.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            sound("output of a container", Arc::clone(&io).pump(output, stream));
        }
        Ok(io)
    }

    /// What the container writes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.output.subscribe()
    }

    /// Waits until the container's outputs have ended.
    pub async fn drained(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    async fn pump(self: Arc<Self>, output: Arc<AsyncFd<OwnedFd>>, stream: Stream) {
        loop {
            match self.step(&output, stream).await {
                Ok(Rest::Ended) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, ?stream, "read a container's output");
                    break;
                }
            }
        }
        self.open.send_modify(|open| *open -= 1);
    }

    /// Some of it on its way: to the log and to whoever is attached.
    async fn step(&self, output: &Arc<AsyncFd<OwnedFd>>, stream: Stream) -> io::Result<Rest> {
        let attached = self.output.clone();
        let deliver = move |bytes: &[u8]| {
            if attached.receiver_count() > 0 {
                let _ = attached.send((stream, Bytes::copy_from_slice(bytes)));
            }
        };
        let Some(log) = &self.log else {
            let mut buffer = vec![0; CHUNK];
            let size = read(output, &mut buffer).await?;
            deliver(&buffer[..size]);
            return Ok(if size == 0 { Rest::Ended } else { Rest::More });
        };
        let mut ready = output.readable().await?;
        let (from, log) = (Arc::clone(output), Arc::clone(log));
        let rest = self.transfer.step(from, &self.container, stream, log, deliver).await?;
        if rest == Rest::Empty {
            // Only of what was there when the step began: what came since is not forgotten.
            ready.clear_ready();
        }
        Ok(rest)
    }

    /// Opens the log anew, after a rotation.
    ///
    /// # Errors
    /// As open(2); the old file stays in use.
    pub async fn reopen_log(&self) -> io::Result<()> {
        match &self.log {
            Some(log) => self.transfer.reopen(&self.container, Arc::clone(log)).await,
            None => Ok(()),
        }
    }
}

/// The log at a path, when there is one to write.
///
/// # Errors
/// As open(2).
pub fn open_log(path: &str) -> io::Result<Option<Arc<LogFile>>> {
    if path.is_empty() { Ok(None) } else { LogFile::open(Path::new(path)).map(|log| Some(Arc::new(log))) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crate::logs::Position;
    use crate::pipes::Pipes;

    use super::*;

    /// A log whose disk takes nothing until the word is given (or all is lost).
    #[derive(Debug, Default)]
    struct Stuck {
        word: Option<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>,
        written: AtomicBool,
    }

    impl Log for Stuck {
        fn position(&self) -> Position {
            Position::default()
        }

        fn append(&self, _: &[u8], _: Stream) {
            if let Some(word) = &self.word {
                let _ = word.lock().unwrap().recv_timeout(Duration::from_secs(5));
            }
            self.written.store(true, Ordering::SeqCst);
        }

        fn reopen(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn container(id: &str, log: Arc<Stuck>, transfer: &Arc<Transfer>) -> (Arc<ContainerIo>, Pipes) {
        let mut pipes = Pipes::new(false, 0, 0).unwrap();
        let ours = Ours { outputs: std::mem::take(&mut pipes.ours.outputs), stdin: None };
        (ContainerIo::start(id, ours, Some(log), Arc::clone(transfer)).unwrap(), pipes)
    }

    /// On one thread, as the runtime's.
    #[tokio::test]
    async fn a_log_that_takes_nothing_holds_up_neither_others_nor_calls() {
        let folder = tempfile::tempdir().unwrap();
        let transfer = Arc::new(Transfer::new(Vec::new(), &folder.path().join("note")).unwrap());
        let (give, word) = std::sync::mpsc::channel();
        let stuck = Arc::new(Stuck { word: Some(std::sync::Mutex::new(word)), ..Stuck::default() });
        let (stuck_io, stuck_pipes) = container("stuck", Arc::clone(&stuck), &transfer);
        let mut told = stuck_io.subscribe();
        nix::unistd::write(&stuck_pipes.stdout, b"x").unwrap();
        // A few may share the stuck one's way, but never all.
        let mut others = Vec::new();
        for number in 0..16 {
            let log = Arc::new(Stuck::default());
            let (io, pipes) = container(&format!("other{number}"), Arc::clone(&log), &transfer);
            let told = io.subscribe();
            nix::unistd::write(&pipes.stdout, b"y").unwrap();
            others.push((io, pipes, told));
        }
        let first = futures::future::select_all(others.iter_mut().map(|(_, _, told)| Box::pin(told.recv())));
        let (heard, _, _) = first.await;
        assert_eq!(heard.unwrap(), (Stream::Stdout, Bytes::from_static(b"y")));
        assert!(!stuck.written.load(Ordering::SeqCst), "others had to wait for a log that takes nothing");
        // What the stuck one has not moved stays in its container's pipe, and comes when the disk does.
        nix::unistd::write(&stuck_pipes.stdout, b"z").unwrap();
        drop(give);
        let mut all = Vec::new();
        while all.len() < 2 {
            all.extend_from_slice(&told.recv().await.unwrap().1);
        }
        assert_eq!(all, b"xz");
        for (_, pipes, mut told) in others {
            nix::unistd::write(&pipes.stdout, b"!").unwrap();
            // Maybe together with what had to wait.
            while !told.recv().await.unwrap().1.ends_with(b"!") {}
        }
    }
}
