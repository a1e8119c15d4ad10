//! Port-forward: pairs of a data and an error stream, any number of them over one connection.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::StreamBackend;
use super::pipe::{Finisher, StreamReader, StreamWriter};
use super::spdy::NewStream;

/// How long one stream of a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Pair {
    since: Instant,
    data: Option<NewStream>,
    error: Option<NewStream>,
}

/// Forwards the pairs that a SPDY client opens until the connection ends.
pub async fn serve(backend: &dyn StreamBackend, sandbox: &str, mut streams: mpsc::Receiver<NewStream>) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let oldest = pairs.values().map(|p| p.since + PAIRING).min();
        let waited_enough = async {
            match oldest {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else { return };
                if let Some(pair) = add(&mut pairs, stream).await {
                    running.push(forward(backend, sandbox, pair));
                }
            }
            Some(()) = running.next() => {}
            () = waited_enough => {
                let late = |p: &Pair| p.since.elapsed() >= PAIRING;
                let keys: Vec<_> = pairs.iter().filter(|(_, p)| late(p)).map(|(k, _)| k.clone()).collect();
                for pair in keys.iter().filter_map(|key| pairs.remove(key)) {
                    for stream in [pair.data, pair.error].into_iter().flatten() {
                        refuse(stream, "timed out waiting for the other stream of the pair").await;
                    }
                }
            }
        }
    }
}

/// Files a stream under its request; gives the pair when it is whole.
async fn add(pairs: &mut HashMap<String, Pair>, stream: NewStream) -> Option<(NewStream, NewStream)> {
    let kind = stream.header("streamtype").unwrap_or("").to_owned();
    let port: Option<u16> = stream.header("port").and_then(|p| p.parse().ok()).filter(|p| *p > 0);
    if port.is_none() || !matches!(kind.as_str(), "data" | "error") {
        refuse(stream, "a stream needs the headers port and streamtype").await;
        return None;
    }
    // Clients before request ids open the error stream, then the data stream, with the next odd id.
    let own = if kind == "error" { stream.id } else { stream.id.saturating_sub(2) };
    let key = stream.header("requestid").map_or_else(|| format!("stream {own}"), str::to_owned);
    let pair =
        pairs.entry(key.clone()).or_insert_with(|| Pair { since: Instant::now(), data: None, error: None });
    let place = if kind == "data" { &mut pair.data } else { &mut pair.error };
    if place.is_some() {
        refuse(stream, "the request has a stream of this type already").await;
        return None;
    }
    *place = Some(stream);
    if pair.data.is_none() || pair.error.is_none() {
        return None;
    }
    let pair = pairs.remove(&key)?;
    pair.data.zip(pair.error)
}

async fn refuse(mut stream: NewStream, why: &str) {
    tracing::debug!(why, "port-forward stream refused");
    if stream.header("streamtype") != Some("error") {
        return stream.refuse().await;
    }
    let _ = stream.writer.write_all(why.as_bytes()).await;
    stream.finisher.finish().await;
}

async fn forward(backend: &dyn StreamBackend, sandbox: &str, (data, error): (NewStream, NewStream)) {
    let port = data.header("port").and_then(|p| p.parse().ok()).unwrap_or(0);
    let _open: [Arc<()>; 2] = [data.open.clone(), error.open.clone()];
    let (reader, writer, finisher) = (data.reader, data.writer, data.finisher);
    one(backend, sandbox, port, (reader, writer, finisher), (error.writer, error.finisher)).await;
}

/// Forwards one connection; what goes wrong is written to the error stream.
pub async fn one(
    backend: &dyn StreamBackend,
    sandbox: &str,
    port: u16,
    (reader, writer, finisher): (StreamReader, StreamWriter, Finisher),
    (mut error, error_finisher): (StreamWriter, Finisher),
) {
    let stream = Box::new(tokio::io::join(reader, writer));
    if let Err(problem) = backend.port_forward(sandbox, port, stream).await {
        let text = format!("error forwarding port {port} to pod {sandbox}: {problem}");
        tracing::debug!("{text}");
        let _ = error.write_all(text.as_bytes()).await;
    }
    finisher.finish().await;
    error_finisher.finish().await;
}
