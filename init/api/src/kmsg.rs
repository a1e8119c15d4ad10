//! The kernel's log (Documentation/ABI/testing/dev-kmsg) as lines.
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use machine::api::Data;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// A record is at most 8 KiB.
const RECORD: usize = 8192;

/// Sends the kernel's log from its start, or only what comes from now on (`tail`); `follow` waits for more.
pub async fn send(descriptor: OwnedFd, follow: bool, tail: bool, out: Sender<Result<Data, Status>>) {
    if let Err(error) = copy(File::from(descriptor), follow, tail, &out).await {
        let _ = out.send(Err(Status::internal(format!("read /dev/kmsg: {error}")))).await;
    }
}

// Deprecated for types whose descriptor can change while registered; a file's does not.
#[expect(deprecated)]
async fn copy(
    mut file: File,
    follow: bool,
    tail: bool,
    out: &Sender<Result<Data, Status>>,
) -> io::Result<()> {
    if tail {
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    }
    let file = AsyncFd::new(file)?;
    let mut buffer = vec![0_u8; RECORD];
    loop {
        match file.get_ref().read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let line = line(&String::from_utf8_lossy(&buffer[..length]));
                if out.send(Ok(Data { data: Bytes::from(line) })).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !follow {
                    return Ok(());
                }
                tokio::select! {
                    ready = file.readable() => ready?.clear_ready(),
                    () = out.closed() => return Ok(()),
                }
            }
            // EPIPE: the record was overwritten before it was read; the next read goes on with the oldest there is.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `prefix,sequence,microseconds,flags;text` as dmesg shows it; continuation lines stay indented.
fn line(record: &str) -> String {
    let record = record.trim_end_matches('\n');
    let Some((head, text)) = record.split_once(';') else { return format!("{record}\n") };
    let micros = head.split(',').nth(2).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // What follows in further lines are machine-readable properties.
    let text = text.lines().next().unwrap_or_default();
    format!("[{:5}.{:06}] {text}\n", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_line() {
        assert_eq!(
            line("6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n"),
            "[    5.140900] NET: Registered\n"
        );
        assert_eq!(line("odd"), "odd\n");
    }
}
