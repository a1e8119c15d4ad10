//! Waiting for changes of a folder's files (inotify(7)).
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Tells when files in one folder appear, change or go.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<Fd>,
}

#[derive(Debug)]
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// # Errors
    /// As inotify_add_watch(2): the folder must exist.
    // Deprecated for types whose descriptor can change while registered; this one owns its inotify and never changes it.
    #[allow(deprecated)]
    pub fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(folder, flags).map_err(|errno| {
            io::Error::new(io::Error::from(errno).kind(), format!("watch {}: {errno}", folder.display()))
        })?;
        Ok(Self { inotify: AsyncFd::new(Fd(inotify))? })
    }

    /// Returns after the next change or changes.
    ///
    /// # Errors
    /// As read(2).
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
            match guard.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
