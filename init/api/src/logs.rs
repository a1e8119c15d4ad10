//! A service's log, from its tail on, across rotation.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use machine::api::Data;
use machine::socket::{ServiceName, request};
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::init_client;

const CHUNK: usize = 32 << 10;
/// How often the end of a followed file is looked at again. The file belongs to root and inotify asks for the right to open it, which
/// this process lacks by design; a look is one read(2).
const LOOK: Duration = Duration::from_millis(500);
/// How long one look may take.
const DISK: Duration = Duration::from_secs(10);
/// Looks without news between two questions for a rotated file.
const LOOKS: u32 = 4;

/// Sends the log's last `tail` lines (all when negative) and, if asked to, what is added until the client leaves.
pub async fn send(
    actor: String,
    service: String,
    follow: bool,
    tail: i64,
    out: Sender<Result<Data, Status>>,
) {
    if let Err(status) = copy(&actor, &service, follow, tail, &out).await {
        let _ = out.send(Err(status)).await;
    }
}

async fn copy(
    actor: &str,
    service: &str,
    follow: bool,
    tail: i64,
    out: &Sender<Result<Data, Status>>,
) -> Result<(), Status> {
    let failed = |error: io::Error| Status::internal(format!("read the log of {service}: {error}"));
    let mut log = open(actor, service).await?;
    if tail >= 0 {
        let file = Arc::clone(&log.file);
        log.at = off_thread(move || tail_offset(&file, tail.unsigned_abs())).await.map_err(failed)?;
    }
    let mut quiet = 0;
    loop {
        if log.drain(out).await.map_err(failed)? {
            quiet = 0;
        }
        if out.is_closed() || !follow {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => quiet += 1,
            () = out.closed() => return Ok(()),
        }
        if quiet >= LOOKS {
            quiet = 0;
            let newest = open(actor, service).await?;
            let (ours, theirs) = (Arc::clone(&log.file), Arc::clone(&newest.file));
            let same = move || Ok(identity(&ours)? == identity(&theirs)?);
            if !off_thread(same).await.map_err(failed)? {
                // What was added between the last look and the rotation comes first.
                log.drain(out).await.map_err(failed)?;
                log = newest;
            }
        }
    }
}

async fn open(actor: &str, service: &str) -> Result<Log, Status> {
    let call = request::Call::OpenLog(ServiceName { name: service.into() });
    let descriptor: OwnedFd = init_client::descriptor(actor, call).await?;
    Ok(Log { file: Arc::new(File::from(descriptor)), at: 0 })
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

/// An open log, and how far it has been sent.
struct Log {
    file: Arc<File>,
    at: u64,
}

impl Log {
    /// Sends everything up to the file's end; true when there was something.
    async fn drain(&mut self, out: &Sender<Result<Data, Status>>) -> io::Result<bool> {
        let mut any = false;
        loop {
            let (file, at) = (Arc::clone(&self.file), self.at);
            let read = move || {
                let mut chunk = vec![0_u8; CHUNK];
                let length = file.read_at(&mut chunk, at)?;
                chunk.truncate(length);
                Ok(chunk)
            };
            let chunk = off_thread(read).await?;
            self.at += chunk.len() as u64;
            if chunk.is_empty() || out.send(Ok(Data { data: Bytes::from(chunk) })).await.is_err() {
                return Ok(any);
            }
            any = true;
        }
    }
}

/// Reads from a disk that may be sick, while all other clients are served.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::time::timeout(DISK, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(io::Error::other)?,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")),
    }
}

/// Where the last `lines` lines begin.
fn tail_offset(file: &File, lines: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok(size);
    }
    let (mut position, mut seen) = (size, 0);
    let mut chunk = vec![0_u8; CHUNK];
    while position > 0 {
        let length = position.min(CHUNK as u64);
        position -= length;
        let part = &mut chunk[..length as usize];
        file.read_exact_at(part, position)?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = position + index as u64 + 1;
            // The newline at the very end closes the last line and opens none.
            if after < size {
                seen += 1;
                if seen == lines {
                    return Ok(after);
                }
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\nthree\n").unwrap();
        let mut rest = |lines| {
            let offset = tail_offset(&file, lines).unwrap();
            let mut text = String::new();
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(rest(0), "");
        assert_eq!(rest(1), "three\n");
        assert_eq!(rest(2), "two\nthree\n");
        assert_eq!(rest(9), "one\ntwo\nthree\n");
    }

    #[test]
    fn long_lines_cross_chunks() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(CHUNK + 10);
        file.write_all(format!("first\n{long}\n").as_bytes()).unwrap();
        assert_eq!(tail_offset(&file, 1).unwrap(), 6);
    }
}
