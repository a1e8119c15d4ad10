//! Who may use the runtime's sockets: the node's own services, and who is privileged anyway. A pod that has the sockets' folder mounted
//! and root's uid, and nothing more, is neither.
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use machine::paths::NODE_CGROUPS;
use sys::peer::Peer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

/// Those who are turned away are spoken of once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);
static SAID: Mutex<Option<Instant>> = Mutex::new(None);

/// Whether the client that has connected is served; if not, that is said.
pub fn admits(stream: &UnixStream) -> bool {
    match Peer::of(stream).and_then(|peer| peer.admit(&NODE_CGROUPS)) {
        Ok(_) => true,
        Err(error) => {
            let now = Instant::now();
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|said| now.saturating_duration_since(said) >= SAY_AGAIN) {
                *said = Some(now);
                tracing::warn!(%error, "turned a client away");
            }
            false
        }
    }
}

/// Connections of those who are served.
pub fn admitted(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    UnixListenerStream::new(listener)
        .filter(|accepted| std::future::ready(accepted.as_ref().map_or(true, admits)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;

    /// What the children below run: connect, and exit with 0 unless the other end hangs up.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os("PEERS_TEST_SOCKET") else { return };
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
    }

    /// Whether a child with these rights gets an answer.
    async fn is_served(listener: UnixListener, path: PathBuf, wrapper: &[&str]) -> bool {
        let mut connections = Box::pin(admitted(listener));
        let mut child = tokio::process::Command::new(wrapper[0])
            .args(&wrapper[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "peers::tests::child"])
            .env("PEERS_TEST_SOCKET", &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let serve = async {
            while let Some(Ok(stream)) = connections.next().await {
                stream.writable().await.unwrap();
                stream.try_write(&[1]).unwrap();
            }
        };
        tokio::select! {
            () = serve => panic!("the listener ended"),
            status = tokio::time::timeout(Duration::from_secs(60), child.wait()) => status.unwrap().unwrap().success(),
        }
    }

    #[tokio::test]
    async fn root_of_a_pod_without_privilege_is_not_served() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root has rights to give up");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, wrapper, served) in [
            ("root", &["setpriv"][..], true),
            ("bounded", &["setpriv", "--bounding-set=-sys_admin"], false),
            ("namespace", &["unshare", "--user", "--map-root-user"], false),
        ] {
            let path = folder.path().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            assert_eq!(is_served(listener, path, wrapper).await, served, "{wrapper:?}");
        }
    }
}
