//! Waiting for changes of the machine config or the network.
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// An inotify watch on the folder where init replaces files.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<std::os::fd::OwnedFd>,
    inotify: Inotify,
}

impl Watch {
    /// Watches a folder.
    ///
    /// # Errors
    /// When the folder does not exist or inotify is exhausted.
    // Deprecated for types whose descriptor can change while registered; an owned descriptor does not.
    #[expect(deprecated)]
    pub fn new(folder: &str) -> Result<Self> {
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("inotify_init")?;
        inotify
            .add_watch(folder, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)
            .with_context(|| format!("watch {folder}"))?;
        let fd = inotify.as_fd().try_clone_to_owned().context("duplicate the inotify descriptor")?;
        Ok(Self { fd: AsyncFd::new(fd).context("register the inotify descriptor")?, inotify })
    }

    /// Returns at the next change, or after `at_most`.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn changed(&self, at_most: Duration) -> Result<()> {
        let Ok(guard) = tokio::time::timeout(at_most, self.fd.readable()).await else { return Ok(()) };
        let mut guard = guard.context("wait for inotify")?;
        // What changed does not matter: the caller reads everything again.
        while self.inotify.read_events().is_ok() {}
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_wakes() {
        let folder = std::env::temp_dir().join(format!("pintle-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let watch = Watch::new(folder.to_str().unwrap()).unwrap();
        std::fs::write(folder.join("new"), "x").unwrap();
        std::fs::rename(folder.join("new"), folder.join("file")).unwrap();
        let started = std::time::Instant::now();
        watch.changed(Duration::from_secs(60)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(30));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
