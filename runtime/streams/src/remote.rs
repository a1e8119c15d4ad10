//! Exec and attach over the streams of a connection.
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::pipe::{Finisher, StreamReader, StreamWriter};
use super::spdy::NewStream;
use super::{Input, Output, Request, StreamBackend, StreamError, Streams, TermSize};

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// The streams a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Of an exec or attach.
    pub fn of(request: &Request) -> Option<Self> {
        let (stdin, stdout, stderr, tty) = match request {
            Request::Exec(r) => (r.stdin, r.stdout, r.stderr, r.tty),
            Request::Attach(r) => (r.stdin, r.stdout, r.stderr, r.tty),
            Request::PortForward(_) => return None,
        };
        Some(Self { stdin, stdout, stderr: stderr && !tty, tty })
    }
}

/// How a client reads the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// A text when something failed.
    V1,
    V2,
    /// With terminal sizes.
    V3,
    /// The outcome as a `Status` in JSON.
    V4,
    /// With a signal that closes one channel (WebSocket).
    V5,
}

/// A client's streams.
#[derive(Debug)]
pub struct Remote {
    pub stdin: Option<StreamReader>,
    pub stdout: Option<(StreamWriter, Finisher)>,
    pub stderr: Option<(StreamWriter, Finisher)>,
    pub error: (StreamWriter, Finisher),
    pub resize: Option<StreamReader>,
    pub version: Version,
}

/// Gathers the streams that a SPDY client opens; `None` when it takes too long or goes.
pub async fn gather(
    streams: &mut mpsc::Receiver<NewStream>,
    wanted: Wanted,
    version: Version,
) -> Option<Remote> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let complete = async {
        let flags = [wanted.stdin, wanted.stdout, wanted.stderr, wanted.tty && version >= Version::V3];
        let expected = 1 + flags.into_iter().filter(|f| *f).count();
        for _ in 0..expected {
            let stream = streams.recv().await?;
            let kind = stream.header("streamtype").unwrap_or("").to_owned();
            let NewStream { reader, writer, finisher, .. } = stream;
            match kind.as_str() {
                "stdin" => stdin = Some(reader),
                "stdout" => stdout = Some((writer, finisher)),
                "stderr" => stderr = Some((writer, finisher)),
                "error" => error = Some((writer, finisher)),
                "resize" => resize = Some(reader),
                other => {
                    tracing::debug!(kind = other, "a streaming client opened a stream of unknown type");
                    return None;
                }
            }
        }
        Some(())
    };
    tokio::time::timeout(OPENING, complete).await.ok().flatten()?;
    Some(Remote { stdin, stdout, stderr, error: error?, resize, version })
}

/// Runs the request on the backend and tells the client how it ended.
pub async fn serve(backend: &dyn StreamBackend, request: &Request, remote: Remote) {
    let (sizes, resize) = mpsc::channel(4);
    let (stdout, stdout_end) = remote.stdout.unzip();
    let (stderr, stderr_end) = remote.stderr.unzip();
    let streams = Streams {
        stdin: remote.stdin.map(|r| Box::new(r) as Input),
        stdout: stdout.map(|w| Box::new(w) as Output),
        stderr: stderr.map(|w| Box::new(w) as Output),
        resize,
    };
    let resizing = async {
        if let Some(reader) = remote.resize {
            forward_sizes(reader, &sizes).await;
        }
        // The backend's end of the channel stays open for as long as it runs.
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = run(backend, request, streams) => outcome,
        () = resizing => return,
    };
    for end in [stdout_end, stderr_end].into_iter().flatten() {
        end.finish().await;
    }
    let (mut error, error_end) = remote.error;
    let text = status(&outcome, remote.version);
    if !text.is_empty() && error.write_all(text.as_bytes()).await.is_err() {
        tracing::debug!("a streaming client left before it heard the outcome");
    }
    error_end.finish().await;
}

async fn run(backend: &dyn StreamBackend, request: &Request, streams: Streams) -> Result<i32, StreamError> {
    match request {
        Request::Exec(r) => backend.exec(&r.container_id, &r.cmd, r.tty, streams).await,
        Request::Attach(r) => backend.attach(&r.container_id, r.tty, streams).await.map(|()| 0),
        Request::PortForward(_) => Err(StreamError("a port-forward has no terminal".into())),
    }
}

/// What goes to the error stream: a `Status` of the Kubernetes API, or before v4 a text if something failed.
fn status(outcome: &Result<i32, StreamError>, version: Version) -> String {
    let (value, text) = match outcome {
        Ok(0) => (serde_json::json!({ "metadata": {}, "status": "Success" }), String::new()),
        Ok(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            let causes = serde_json::json!([{ "reason": "ExitCode", "message": code.to_string() }]);
            let value = serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": message, "details": { "causes": causes },
            });
            (value, message)
        }
        Err(error) => {
            let message = format!("error executing command in container: {error}");
            let value = serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {message}"),
            });
            (value, message)
        }
    };
    if version >= Version::V4 { value.to_string() } else { text }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads `{"Width":80,"Height":24}` objects, one after the other, until the stream ends or is none of these.
async fn forward_sizes(mut reader: StreamReader, sizes: &mpsc::Sender<TermSize>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 256];
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        buffer.extend_from_slice(&chunk[..read]);
        let mut values = serde_json::Deserializer::from_slice(&buffer).into_iter::<Size>();
        let mut found = Vec::new();
        while let Some(Ok(size)) = values.next() {
            found.push(TermSize { width: size.width, height: size.height });
        }
        buffer.drain(..values.byte_offset());
        // Only the newest matters.
        if let Some(size) = found.last()
            && sizes.send(*size).await.is_err()
        {
            return;
        }
        if buffer.len() > 1024 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_said_as_clients_read_it() {
        let value: serde_json::Value = serde_json::from_str(&status(&Ok(7), Version::V4)).unwrap();
        assert_eq!(value["reason"], "NonZeroExitCode");
        assert_eq!(value["details"]["causes"][0]["message"], "7");
        assert_eq!(status(&Ok(0), Version::V4), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(status(&Ok(0), Version::V1), "");
        assert_eq!(status(&Ok(7), Version::V3), "command terminated with non-zero exit code: exit status 7");
    }

    #[tokio::test]
    async fn terminal_sizes_arrive_however_they_are_cut() {
        let (feed, reader) = super::super::pipe::reader(None);
        let (sizes, mut received) = mpsc::channel(8);
        let send = async move {
            for piece in [r#"{"Width":80,"#, r#""Height":24}"#, "{\"Width\":1,\"Height\":2}\n"] {
                feed.push(bytes::Bytes::from_static(piece.as_bytes())).await;
            }
            feed.finish();
        };
        tokio::join!(send, forward_sizes(reader, &sizes));
        drop(sizes);
        assert_eq!(received.recv().await, Some(TermSize { width: 80, height: 24 }));
        assert_eq!(received.recv().await, Some(TermSize { width: 1, height: 2 }));
        assert_eq!(received.recv().await, None);
    }
}
