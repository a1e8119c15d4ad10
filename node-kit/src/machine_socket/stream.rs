//! Calls on a connection of their own, of which some are answered more than once.
use std::os::fd::OwnedFd;
use std::time::Duration;

use machine::socket::{Empty, Exit, reply, request::Call};
use sys::framed::FramedSocket;
use tokio::time::timeout;

use super::{Answer, CallError, connect, receive, send};

/// How long one answer may take. Applying a config includes its checks and writing it to disk.
const DEADLINE: Duration = Duration::from_secs(60);

/// A call that is answered more than once.
#[derive(Debug)]
pub struct Stream {
    socket: FramedSocket,
    ended: bool,
}

impl Stream {
    /// Sends the call. `actor` is on whose behalf, for PID 1's audit line; "" for the service itself.
    ///
    /// # Errors
    /// When PID 1 is not to be reached.
    pub async fn open(actor: &str, call: Call) -> Result<Self, CallError> {
        let socket = connect()?;
        send(&socket, actor, call, &[]).await?;
        Ok(Self { socket, ended: false })
    }

    /// One call that is answered once, within a minute.
    ///
    /// # Errors
    /// When PID 1 refuses or does not answer.
    pub async fn call(actor: &str, call: Call) -> Result<Answer, CallError> {
        let exchange = async { Self::open(actor, call).await?.next().await?.ok_or(CallError::Closed) };
        timeout(DEADLINE, exchange).await.map_err(|_| CallError::Late(DEADLINE))?
    }

    /// One call and the one descriptor that it is answered with.
    ///
    /// # Errors
    /// As [`Stream::call`].
    pub async fn descriptor(actor: &str, call: Call) -> Result<OwnedFd, CallError> {
        let (_, descriptors) = Self::call(actor, call).await?;
        descriptors.into_iter().next().ok_or(CallError::Unreadable)
    }

    /// The next answer; `None` at the end.
    ///
    /// # Errors
    /// PID 1's own, or that the connection broke.
    pub async fn next(&mut self) -> Result<Option<Answer>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let received = receive(&mut self.socket).await;
        self.ended = !matches!(received, Ok(Some((_, true))));
        Ok(received?.map(|(answer, _)| answer))
    }
}

/// The exit ledger's stream: exits that nobody has acknowledged first, then each as it happens.
#[derive(Debug)]
pub struct ExitStream(Stream);

impl ExitStream {
    /// Opens it.
    ///
    /// # Errors
    /// When PID 1 is not to be reached.
    pub async fn open() -> Result<Self, CallError> {
        Stream::open("", Call::WatchExits(Empty {})).await.map(Self)
    }

    /// The next exit.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<Exit, CallError> {
        loop {
            match self.0.next().await?.ok_or(CallError::Closed)?.0 {
                reply::Result::Exit(exit) => return Ok(exit),
                _ => continue,
            }
        }
    }
}
