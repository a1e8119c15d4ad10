//! A blob as a stream of bytes that survives broken connections.
use std::io;
use std::time::Instant;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::PullError;
use super::http::Session;
use super::manifest::Descriptor;
use super::retry::{self, ENOUGH, Pace};

/// How often in a row a connection may bring nothing new.
const TRIES: u32 = 5;
/// Chunks under way between the connection and the disk.
pub const QUEUE: usize = 8;

/// Fetches a blob into `sink`, resuming where a connection broke off; ends early when the other side is gone.
///
/// # Errors
/// When the registry refuses, stalls for good, or sends another length than the manifest says.
pub async fn fetch(
    session: &Session<'_>,
    repository: &str,
    blob: &Descriptor,
    sink: &mpsc::Sender<Bytes>,
) -> Result<(), PullError> {
    tokio::select! {
        result = resume(session, repository, blob, sink) => result,
        // The other side knows why.
        () = sink.closed() => Ok(()),
    }
}

async fn resume(
    session: &Session<'_>,
    repository: &str,
    blob: &Descriptor,
    sink: &mpsc::Sender<Bytes>,
) -> Result<(), PullError> {
    let (mut offset, mut fruitless) = (0, 0);
    loop {
        let before = offset;
        let Err(error) = attempt(session, repository, blob, sink, &mut offset).await else { return Ok(()) };
        fruitless = if offset - before >= ENOUGH { 0 } else { fruitless + 1 };
        let Some(pause) = retry::pause(&error, fruitless, TRIES) else { return Err(error) };
        tracing::info!(digest = %blob.digest, offset, %error, "resuming a layer");
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(
    session: &Session<'_>,
    repository: &str,
    blob: &Descriptor,
    sink: &mpsc::Sender<Bytes>,
    offset: &mut u64,
) -> Result<(), PullError> {
    let path = format!("{repository}/blobs/{}", blob.digest);
    let url = session.url(&path);
    let broken = |source| PullError::Transport { url: url.clone(), action: "reading a layer", source };
    let range = (*offset > 0).then(|| ("range", format!("bytes={offset}-")));
    let response = session.get(&path, range.as_slice()).await?;
    // A server that knows no ranges sends all of it again.
    let mut skip = if response.status() == http::StatusCode::PARTIAL_CONTENT { 0 } else { *offset };
    if skip == 0 && *offset > 0 && !continues_at(&response, *offset) {
        return Err(PullError::Malformed(format!("{url}: sent another range than was asked for")));
    }
    let expected = blob.size.saturating_sub(*offset) + skip;
    if let Some(length) = announced(&response).filter(|length| *length != expected) {
        let size = blob.size;
        return Err(PullError::Malformed(format!(
            "{url}: announces {length} bytes instead of {expected}; the manifest says that the layer has {size}"
        )));
    }
    let mut body = response.into_body();
    let mut pace = Pace::new(session.patience(), Instant::now());
    loop {
        let frame = match tokio::time::timeout_at(pace.deadline().into(), body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) | Ok(Some(Err(_))) | Err(_) if *offset == blob.size => return Ok(()),
            Ok(Some(Err(error))) => return Err(broken(io::Error::other(error))),
            Ok(None) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(_) => return Err(broken(io::ErrorKind::TimedOut.into())),
        };
        let Ok(mut data) = frame.into_data() else { continue };
        pace.count(data.len() as u64, Instant::now());
        let skipped = skip.min(data.len() as u64);
        data.advance(skipped as usize);
        skip -= skipped;
        *offset += data.len() as u64;
        if *offset > blob.size {
            return Err(PullError::Malformed(format!(
                "{url}: is longer than the {} bytes that the manifest says",
                blob.size
            )));
        }
        let before = Instant::now();
        if !data.is_empty() && sink.send(data).await.is_err() {
            return Ok(()); // the other side knows why
        }
        // The disk may be slow.
        pace.forgive(before.elapsed());
    }
}

fn announced<B>(response: &http::Response<B>) -> Option<u64> {
    response.headers().get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn continues_at<B>(response: &http::Response<B>, offset: u64) -> bool {
    let range = response.headers().get(http::header::CONTENT_RANGE).and_then(|r| r.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}
