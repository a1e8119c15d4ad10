//! `pintle-launch` as a child of the runtime.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// A child that somebody waits for. Dropped before its end, it is killed.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    ended: Option<ExitStatus>,
}

impl Child {
    /// # Errors
    /// As epoll_ctl(2); the child is killed then.
    pub fn new(child: sys::child::Child) -> io::Result<Self> {
        let sys::child::Child { pid, pidfd } = child;
        let kept = pidfd.try_clone()?;
        match crate::pipes::watch(pidfd) {
            Ok(pidfd) => Ok(Self { pid, pidfd, ended: None }),
            Err(error) => {
                let _ = sys::pidfd::signal(&kept, nix::libc::SIGKILL);
                Err(error)
            }
        }
    }

    /// Waits for its end. May be given up and called again.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = reaped(self.pid, &self.pidfd).await?;
        self.ended = Some(status);
        Ok(status)
    }

    pub fn kill(&self) {
        let _ = sys::pidfd::signal(self.pidfd.get_ref(), nix::libc::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let (pid, pidfd) = (self.pid, Arc::clone(&self.pidfd));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { reaped(pid, &pidfd).await });
            }
        }
    }
}

async fn reaped(pid: i32, pidfd: &AsyncFd<OwnedFd>) -> io::Result<ExitStatus> {
    loop {
        let mut ready = pidfd.readable().await?;
        match sys::pidfd::reap(pid)? {
            Some(status) => return Ok(ExitStatus::from_raw(status)),
            None => ready.clear_ready(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn cat() -> (Child, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = sys::child::start(Path::new("/bin/cat"), theirs.as_fd(), None).unwrap();
        (Child::new(child).unwrap(), ours)
    }

    #[tokio::test]
    async fn its_end_is_told_however_often_one_asks() {
        let (mut child, ours) = cat();
        let early = tokio::time::timeout(Duration::from_millis(1), child.wait()).await;
        assert!(early.is_err(), "it still runs");
        drop(ours);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_is_killed_and_reaped() {
        let (child, _ours) = cat();
        let process = format!("/proc/{}", child.pid);
        drop(child);
        let gone = async {
            while Path::new(&process).exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    }
}
