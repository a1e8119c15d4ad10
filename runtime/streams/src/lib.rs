//! Exec, attach and port-forward streams: SPDY/3.1 and WebSocket over HTTP/1.1 upgrades.
//!
//! The CRI calls Exec, Attach and PortForward register what they ask for and get a URL with a one-time token; whoever dials the
//! stream socket with that URL gets the streams of that one request. What runs behind a stream is a [`StreamBackend`].
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

mod connection;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod idle;
mod negotiate;
mod pipe;
mod portforward;
mod remote;
mod server;
mod session;
mod spdy;
mod token;
mod websocket;

pub use error::RegisterError;
pub use server::Server;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Exec(machine::cri::ExecRequest),
    Attach(machine::cri::AttachRequest),
    PortForward(machine::cri::PortForwardRequest),
}

impl Request {
    /// What its URL begins with.
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermSize {
    pub width: u16,
    pub height: u16,
}

/// Bytes from the client; it ends where the client half-closes the stream, and fails where the connection breaks.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes to the client; `shutdown` ends the stream, and a write waits while the client does not read.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Both directions of a forwarded connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The streams of one exec or attach. With a terminal `stderr` is absent: the terminal's output is `stdout`.
pub struct Streams {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// The client's terminal sizes; ends with the connection. Without a terminal nothing arrives.
    pub resize: mpsc::Receiver<TermSize>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a backend could not serve a stream; the client reads the message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StreamError(pub String);

/// What runs behind the streams. A future is dropped when the client's connection is gone, so an exec'd process that must not outlive
/// its client is ended by a guard inside of it.
#[async_trait::async_trait]
pub trait StreamBackend: Send + Sync + 'static {
    /// Runs `cmd` in the container; returns its exit status (128 + n after signal n) once it has ended and its output is written.
    async fn exec(
        &self,
        container_id: &str,
        cmd: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<i32, StreamError>;

    /// Connects the streams to the container's own; returns when the container has ended or closed its output.
    async fn attach(&self, container_id: &str, tty: bool, streams: Streams) -> Result<(), StreamError>;

    /// Connects `stream` to `port` on the pod's loopback; returns when both directions have ended.
    async fn port_forward(
        &self,
        sandbox_id: &str,
        port: u16,
        stream: Box<dyn Duplex>,
    ) -> Result<(), StreamError>;
}
