//! Pipes between a container and this process, read and written without blocking.
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;

/// What is read from a pipe at once.
pub const CHUNK: usize = 16 << 10;

/// The ends that go to the container, and ours.
#[derive(Debug)]
pub struct Pipes {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub ours: Ours,
}

/// Our ends, as they lie in the fd store: stdout and stderr or a terminal, and stdin if it is open.
#[derive(Debug)]
pub struct Ours {
    pub outputs: Vec<OwnedFd>,
    pub stdin: Option<OwnedFd>,
}

impl Pipes {
    /// Makes them, owned by the container's user so that it can open /dev/stdout. Without `stdin` the container reads from /dev/null.
    ///
    /// # Errors
    /// When no pipe can be made.
    pub fn new(stdin: bool, uid: u32, gid: u32) -> io::Result<Self> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let (stdout, stdout_theirs) = pipe()?;
        let (stderr, stderr_theirs) = pipe()?;
        let (stdin_theirs, stdin) = if stdin {
            let (theirs, ours) = pipe()?;
            (theirs, Some(ours))
        } else {
            (std::fs::File::open("/dev/null")?.into(), None)
        };
        for end in
            [&stdout_theirs, &stderr_theirs].into_iter().chain(stdin.is_some().then_some(&stdin_theirs))
        {
            std::os::unix::fs::fchown(end, Some(uid), Some(gid))?;
        }
        let ours = Ours { outputs: vec![stdout, stderr], stdin };
        Ok(Self { stdin: stdin_theirs, stdout: stdout_theirs, stderr: stderr_theirs, ours })
    }

    /// Numbers of the container's ends: stdin, stdout, stderr.
    pub fn theirs(&self) -> [RawFd; 3] {
        [&self.stdin, &self.stdout, &self.stderr].map(AsRawFd::as_raw_fd)
    }
}

impl Ours {
    /// Numbers for the fd store.
    pub fn raw(&self) -> Vec<RawFd> {
        self.outputs.iter().chain(&self.stdin).map(AsRawFd::as_raw_fd).collect()
    }
}

/// Makes a descriptor non-blocking and watches it.
///
/// # Errors
/// As fcntl(2) and epoll_ctl(2).
pub fn watch(descriptor: OwnedFd) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    let flags = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(Arc::new(sys::readiness::register(descriptor)?))
}

/// Reads what is there; 0 at the end (a terminal's end is EIO).
///
/// # Errors
/// As read(2).
pub async fn read(descriptor: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = descriptor.readable().await?;
        match ready.try_io(|inner| Ok(nix::unistd::read(inner.get_ref(), buffer)?)) {
            Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_) => {}
        }
    }
}

/// Writes everything.
///
/// # Errors
/// As write(2); `BrokenPipe` when the reader is gone.
pub async fn write_all(descriptor: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = descriptor.writable().await?;
        match ready.try_io(|inner| Ok(nix::unistd::write(inner.get_ref().as_fd(), bytes)?)) {
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}
