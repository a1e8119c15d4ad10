//! Waiting for changes of a folder's files (inotify(7)), and looking again from time to time where the kernel cannot tell.
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// How often a folder is looked at that cannot be watched, as the kubelet looks at its manifests. One that is watched is looked at in this time too where
/// [`Folder::changed`] says so.
pub const POLL: Duration = Duration::from_secs(20);

/// Tells when files in one folder appear, change or go. It works on without inotify, when the folder does not exist yet, or is replaced: then it says at
/// every [`POLL`] that the caller should look.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What is told beside files that are whole, come or go.
    more: AddWatchFlags,
    watch: Option<Watch>,
    /// Whether it was said that the folder cannot be watched.
    said: bool,
}

#[derive(Debug)]
struct Watch {
    inotify: Inotify,
    readiness: AsyncFd<OwnedFd>,
}

impl Folder {
    /// As [`Folder::watch`], and tells of each write to a file too.
    pub fn watch_writes(path: impl Into<PathBuf>) -> Self {
        let more = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
        let mut folder = Self { path: path.into(), more, watch: None, said: false };
        folder.begin();
        folder
    }

    /// Begins to watch. Call it before the first look, so that no change falls in between; inside of a tokio runtime.
    pub fn watch(path: impl Into<PathBuf>) -> Self {
        let more = AddWatchFlags::empty();
        let mut folder = Self { path: path.into(), more, watch: None, said: false };
        folder.begin();
        folder
    }

    /// Returns when the caller should look (again): after a change, or, where the kernel cannot tell, after some time. May be cancelled.
    pub async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else {
            tokio::time::sleep(POLL).await;
            self.begin();
            return;
        };
        if watch.next().await.is_err() {
            // The folder is gone or the queue has overflown; whatever is there now is a change.
            self.watch = None;
            self.begin();
        }
    }

    /// As [`Folder::changed`], but at the latest after `at_most`.
    pub async fn changed_within(&mut self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.changed()).await;
    }

    fn begin(&mut self) {
        match Watch::new(&self.path, self.more) {
            Ok(watch) => (self.watch, self.said) = (Some(watch), false),
            Err(error) if !self.said => {
                self.said = true;
                tracing::warn!(
                    "watch {}: {error}; it is looked at every {} s instead",
                    self.path.display(),
                    POLL.as_secs()
                );
            }
            Err(_) => {}
        }
    }
}

impl Watch {
    fn new(folder: &Path, more: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let files = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB;
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(folder, files | itself | more)?;
        let readiness = sys::readiness::register(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readiness })
    }

    /// # Errors
    /// When nothing more will be told of this folder.
    async fn next(&mut self) -> io::Result<()> {
        let over = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_Q_OVERFLOW;
        loop {
            let mut ready = self.readiness.readable().await?;
            match self.inotify.read_events() {
                Ok(events) if events.iter().any(|event| event.mask.intersects(over)) => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(folder: &mut Folder) {
        tokio::time::timeout(Duration::from_secs(60), folder.changed()).await.expect("a change is told");
    }

    #[tokio::test]
    async fn changes_are_told_and_a_folder_that_is_replaced_is_watched_on() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        let mut folder = Folder::watch(&path);
        std::fs::write(path.join("new"), "x").unwrap();
        told(&mut folder).await;
        std::fs::rename(path.join("new"), path.join("file")).unwrap();
        told(&mut folder).await;
        std::fs::rename(&path, base.path().join("old")).unwrap();
        std::fs::create_dir(&path).unwrap();
        // Told of the old one until it is over, and of the new one from then on.
        for number in 0..3 {
            told(&mut folder).await;
            std::fs::write(path.join(format!("file{number}")), "y").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_cannot_be_watched_is_looked_at() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("later");
        let mut folder = Folder::watch(&path);
        assert!(folder.watch.is_none());
        let start = tokio::time::Instant::now();
        std::fs::create_dir(&path).unwrap();
        folder.changed().await;
        assert_eq!(start.elapsed(), POLL);
        assert!(folder.watch.is_some(), "it is watched from now on");
    }
}
