//! Starts `pintle-launch` and hears from it.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use sys::framed::FramedSocket;

use super::child::Child;
use super::program::program;
use super::{Failure, MAX_FRAME, Order, Reply, Request};

/// No healthy launch takes this long, also not on a loaded emulated machine.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);
/// From its reply until its end.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// From the word to start until execve.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);

/// A process that was launched.
#[derive(Debug)]
pub struct Launched {
    pub pid: i32,
    /// Clock ticks since boot; with the pid it names the process for good.
    pub start_time: u64,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
    pub starting: Starting,
}

/// A container's init on its way to the user's program.
#[derive(Debug)]
pub struct Starting(FramedSocket);

impl Starting {
    /// Lets a pause process live on; without this word it ends when the socket does.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn stay(self) -> Result<(), Failure> {
        let told = self.0.send(&[], &[]).await;
        told.map_err(|error| Failure::other(format!("tell the pause process to stay: {error}")))
    }

    /// Waits until init has become the user's program.
    ///
    /// # Errors
    /// When it could not, with the reason.
    pub async fn finished(mut self) -> Result<(), Failure> {
        match tokio::time::timeout(EXEC_DEADLINE, self.0.recv()).await {
            Err(_) => Err(Failure::other("the container's init did not start its program within 30 s")),
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some((frame, _)))) => match serde_json::from_slice(&frame) {
                Ok(Reply::Failed(failure)) => Err(failure),
                _ => Err(Failure::other("the container's init sent something that cannot be understood")),
            },
            Ok(Err(error)) => Err(Failure::other(format!("wait for the container's program: {error}"))),
        }
    }
}

/// Launches with the descriptors that the request asks for, in the first of the cgroups that takes a process; if none does, libcontainer moves what it forks,
/// and a launch of a further process moves itself.
///
/// # Errors
/// When the process could not be made. None of libcontainer's processes is left then, but other things are the caller's to remove: the cgroup with
/// everything in it, and the state folder.
pub async fn launch(
    request: &Request,
    descriptors: &[RawFd],
    cgroups: impl IntoIterator<Item = PathBuf>,
) -> Result<Launched, Failure> {
    let (ours, theirs) = UnixStream::pair()
        .map_err(|error| Failure::other(format!("make a socket for pintle-launch: {error}")))?;
    let inode = nix::sys::stat::fstat(&theirs)
        .map_err(|error| Failure::other(format!("look at pintle-launch's socket: {error}")))?
        .st_ino;
    let (child, joined) = start(theirs.as_fd(), cgroups)
        .map_err(|error| Failure::other(format!("start pintle-launch: {error}")))?;
    drop(theirs);
    match converse(&Order { request, joined }, descriptors, ours, child).await {
        Ok(Conversation { reply: Reply::Started { pid, start_time }, descriptors, socket }) => {
            let mut descriptors = descriptors.into_iter();
            let pidfd = descriptors.next().ok_or_else(|| Failure::other("pintle-launch sent no pidfd"))?;
            Ok(Launched { pid, start_time, pidfd, terminal: descriptors.next(), starting: Starting(socket) })
        }
        Ok(Conversation { reply: Reply::Failed(failure), .. }) => Err(failure),
        // It was killed or is stuck. What it forked is not in a cgroup for certain, and can hear from nobody any more.
        Err(failure) => {
            super::strays::end_holders(inode).await;
            Err(failure)
        }
    }
}

/// Starts the process; returns whether it is in one of the cgroups.
fn start(stdin: BorrowedFd<'_>, cgroups: impl IntoIterator<Item = PathBuf>) -> io::Result<(Child, bool)> {
    let program = program();
    for folder in cgroups {
        let cgroup = std::fs::File::open(&folder);
        match cgroup.and_then(|cgroup| sys::child::start(&program, stdin, Some(cgroup.as_fd()))) {
            Ok(child) => return Ok((Child::new(child)?, true)),
            Err(error) => {
                tracing::debug!(cgroup = %folder.display(), %error, "start pintle-launch in a cgroup")
            }
        }
    }
    Ok((Child::new(sys::child::start(&program, stdin, None)?)?, false))
}

/// What `pintle-launch` said before it ended.
struct Conversation {
    reply: Reply,
    descriptors: Vec<OwnedFd>,
    socket: FramedSocket,
}

async fn converse(
    order: &Order<&Request>,
    descriptors: &[RawFd],
    ours: UnixStream,
    mut child: Child,
) -> Result<Conversation, Failure> {
    let failed = |what: &str, error: io::Error| Failure::other(format!("{what}: {error}"));
    let mut socket =
        FramedSocket::new(ours, MAX_FRAME).map_err(|error| failed("speak to pintle-launch", error))?;
    let body = serde_json::to_vec(order).map_err(|error| Failure::other(error.to_string()))?;
    let talk = async {
        socket.send(&body, descriptors).await?;
        tokio::select! {
            frame = socket.recv() => frame,
            // Killed in the middle it leaves an init that waits for ever and holds the socket: there is no end to read.
            status = child.wait() => {
                match tokio::time::timeout(Duration::from_millis(100), socket.recv()).await {
                    Ok(frame) => frame,
                    Err(_) => Err(io::Error::other(format!("pintle-launch ended without a word ({})", status?))),
                }
            }
        }
    };
    let answer = tokio::time::timeout(LAUNCH_DEADLINE, talk).await;
    let heard = match answer {
        Err(_) => Err(Failure::other("pintle-launch did not answer within 60 s")),
        Ok(Err(error)) => Err(failed("hear from pintle-launch", error)),
        Ok(Ok(None)) => Err(Failure::other("pintle-launch ended without a word")),
        Ok(Ok(Some(answer))) => Ok(answer),
    };
    let (frame, descriptors) = match heard {
        Ok(heard) => heard,
        Err(failure) => {
            child.kill();
            let _ = child.wait().await;
            return Err(failure);
        }
    };
    let reply = serde_json::from_slice(&frame)
        .map_err(|error| Failure::other(format!("pintle-launch's reply cannot be understood: {error}")))?;
    // What it has forked is handed on to the reaper when it is gone, and a further process has the word by then.
    match tokio::time::timeout(EXIT_DEADLINE, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(Conversation { reply, descriptors, socket }),
        Ok(Ok(status)) => Err(Failure::other(format!("pintle-launch ended too early ({status})"))),
        Ok(Err(error)) => Err(failed("wait for the end of pintle-launch", error)),
        Err(_) => Err(Failure::other("pintle-launch has not ended within 10 s after its reply")),
    }
}
