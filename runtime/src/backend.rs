//! What runs behind the streams: exec and attach on a container's own streams, port-forward into a pod's network namespace.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exec::Running;
use crate::io::{CHUNK, read, watch, write_all};
use crate::logs::Stream;
use crate::runtime::{Runtime, folder, lock};
use crate::streaming::{Duplex, Input, Output, StreamBackend, StreamError, Streams, TermSize};

/// How long output may keep coming after an exec has ended.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The runtime, seen from the streaming server.
#[derive(Debug, Clone)]
pub struct Backend(pub Arc<Runtime>);

fn failed(what: &str, error: &dyn std::fmt::Display) -> StreamError {
    StreamError(format!("{what}: {error}"))
}

#[tonic::async_trait]
impl StreamBackend for Backend {
    async fn exec(
        &self,
        container_id: &str,
        cmd: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<i32, StreamError> {
        let running = self
            .0
            .exec(container_id, cmd, tty, streams.stdin.is_some())
            .await
            .map_err(|status| StreamError(status.message().to_owned()))?;
        serve(running, streams).await.map_err(|error| failed("serve an exec's streams", &error))
    }

    async fn attach(&self, container_id: &str, tty: bool, streams: Streams) -> Result<(), StreamError> {
        let container =
            self.0.container(container_id).map_err(|status| StreamError(status.message().to_owned()))?;
        let io = lock(&container.io)
            .clone()
            .ok_or_else(|| StreamError(format!("container {container_id} has no streams")))?;
        let (mut output, mut ended) = (io.subscribe(), container.ended.subscribe());
        let Streams { stdin, mut stdout, mut stderr, mut resize } = streams;
        let target = io.stdin.lock().await.clone();
        let once = container.record().config.stdin_once && !tty;
        let input = async {
            if let (Some(input), Some(target)) = (stdin, target) {
                let done = copy_in(input, &target).await;
                drop(target);
                if done.is_ok() && once {
                    io.stdin.lock().await.take();
                    self.0.forget_stdin(&container).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let sizes = async {
            while let Some(size) = resize.recv().await {
                if let Some(terminal) = &io.terminal {
                    set_size(terminal, size);
                }
            }
            std::future::pending::<()>().await;
        };
        let outputs = async {
            loop {
                match output.recv().await {
                    Ok((stream, bytes)) => {
                        let to = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                        if let Some(to) = to
                            && to.write_all(&bytes).await.is_err()
                        {
                            return;
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(chunks)) => {
                        tracing::warn!(
                            container = container_id,
                            chunks,
                            "an attached client is too slow and misses output"
                        );
                    }
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            () = input => {}
            () = sizes => {}
            () = outputs => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
        Ok(())
    }

    async fn port_forward(
        &self,
        sandbox_id: &str,
        port: u16,
        stream: Box<dyn Duplex>,
    ) -> Result<(), StreamError> {
        let sandbox =
            self.0.sandbox(sandbox_id).map_err(|status| StreamError(status.message().to_owned()))?.record();
        let host = crate::pod::options(&sandbox.config).network == machine::cri::NamespaceMode::Node as i32;
        let netns = (!host).then(|| folder("ns", &sandbox.id).join("net"));
        let connection = connect(netns, port).await.map_err(|error| {
            failed(&format!("connect to port {port} of the pod sandbox {sandbox_id}"), &error)
        })?;
        forward(stream, connection).await.map_err(|error| failed(&format!("forward port {port}"), &error))
    }
}

/// Copies both ways until both ends have closed. A program that resets its connection has ended it, as many do after their answer: that is no
/// fault of the forwarding, and must not cost the client its other connections.
async fn forward(client: Box<dyn Duplex>, pod: tokio::net::TcpStream) -> io::Result<()> {
    let reset = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_pod, mut to_pod) = pod.into_split();
    let questions = async {
        match tokio::io::copy(&mut from_client, &mut to_pod).await {
            // What the program has said until then still goes to the client.
            Err(error) if reset(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => to_pod.shutdown().await.or_else(|error| match error.kind() {
                io::ErrorKind::NotConnected => Ok(()),
                _ => Err(error),
            }),
        }
    };
    let answers = async {
        tokio::io::copy(&mut from_pod, &mut to_client).await?;
        to_client.shutdown().await
    };
    match tokio::try_join!(questions, answers) {
        Err(error) if reset(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// A connection to the pod's loopback, IPv4 first. The socket is made inside of the namespace by a thread that ends.
async fn connect(netns: Option<std::path::PathBuf>, port: u16) -> io::Result<tokio::net::TcpStream> {
    let made = tokio::task::spawn_blocking(move || {
        std::thread::spawn(move || {
            if let Some(path) = netns {
                setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            }
            let timeout = std::time::Duration::from_secs(10);
            let to = |ip: std::net::IpAddr| std::net::TcpStream::connect_timeout(&(ip, port).into(), timeout);
            to(std::net::Ipv4Addr::LOCALHOST.into())
                .or_else(|first| to(std::net::Ipv6Addr::LOCALHOST.into()).map_err(|_| first))
        })
        .join()
        .map_err(|_| io::Error::other("the thread that connects panicked"))?
    })
    .await
    .map_err(io::Error::other)??;
    made.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(made)
}

/// Kills the command when the client has gone.
struct KillOnDrop(Running);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

async fn serve(running: Running, streams: Streams) -> io::Result<i32> {
    let mut guard = KillOnDrop(running);
    let outputs: Vec<OwnedFd> = std::mem::take(&mut guard.0.ours.outputs);
    let outputs = outputs.into_iter().map(watch).collect::<io::Result<Vec<_>>>()?;
    let terminal = (outputs.len() == 1).then(|| Arc::clone(&outputs[0]));
    let stdin = guard.0.ours.stdin.take().map(watch).transpose()?;
    let Streams { stdin: input, stdout, stderr, mut resize } = streams;
    let mut tasks = tokio::task::JoinSet::new();
    for (from, to) in outputs.into_iter().zip([stdout, stderr]) {
        tasks.spawn(copy_out(from, to));
    }
    let target = stdin.or_else(|| terminal.clone());
    let mut feeding = tokio::task::JoinSet::new();
    feeding.spawn(async move {
        if let (Some(input), Some(target)) = (input, target) {
            let _ = copy_in(input, &target).await;
        }
    });
    feeding.spawn(async move {
        while let Some(size) = resize.recv().await {
            if let Some(terminal) = &terminal {
                set_size(terminal, size);
            }
        }
    });
    let code = guard.0.wait().await;
    feeding.abort_all();
    let drain = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drain).await;
    Ok(code)
}

async fn copy_out(from: Arc<AsyncFd<OwnedFd>>, mut to: Option<Output>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(size @ 1..) = read(&from, &mut buffer).await {
        if let Some(writer) = &mut to
            && writer.write_all(&buffer[..size]).await.is_err()
        {
            // The command must not stop because nobody reads.
            to = None;
        }
    }
    if let Some(mut writer) = to {
        let _ = writer.shutdown().await;
    }
}

async fn copy_in(mut from: Input, to: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            size => write_all(to, &buffer[..size]).await?,
        }
    }
}

fn set_size(terminal: &AsyncFd<OwnedFd>, size: TermSize) {
    if let Err(error) = sys::terminal::set_size(terminal.get_ref(), size.width, size.height) {
        tracing::debug!(%error, "set a terminal's size");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use futures::StreamExt;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_program_that_resets_its_connection_has_ended_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut program, _) = listener.accept().await.unwrap();
        let (ours, mut client) = tokio::io::duplex(4096);
        let forwarding = tokio::spawn(forward(Box::new(ours), pod));
        client.write_all(b"question").await.unwrap();
        program.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        // Closed with unread bytes, it is a reset.
        drop(program);
        drop(client);
        forwarding.await.unwrap().unwrap();
        assert_eq!(&answer, b"answer");
    }

    /// A listener whose queue is full drops what else asks for a connection: whoever asks waits.
    fn mute() -> (OwnedFd, Vec<OwnedFd>, u16) {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, listen, socket,
        };
        let tcp = || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
        };
        let listener = tcp();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address: SockaddrIn = getsockname(listener.as_raw_fd()).unwrap();
        let filling = std::iter::repeat_with(tcp).take(8).collect::<Vec<_>>();
        for client in &filling {
            let _ = connect(client.as_raw_fd(), &address);
        }
        (listener, filling, address.port())
    }

    /// As the runtime's: one thread, and 8 for what blocks.
    #[test]
    fn forwards_to_a_mute_port_hold_up_no_container_work() {
        let tokio =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build().unwrap();
        tokio.block_on(async {
            let (_listener, _filling, port) = mute();
            let mut forwards: futures::stream::FuturesUnordered<_> =
                (0..16).map(|_| Box::pin(connect(None, port))).collect();
            // All of them have begun.
            assert!(futures::poll!(forwards.next()).is_pending());
            let work = tokio::task::spawn_blocking(|| ());
            tokio::select! {
                biased;
                ended = forwards.next() => panic!("container work waited for a forward: {ended:?}"),
                done = work => done.unwrap(),
            }
            assert!(futures::poll!(forwards.next()).is_pending(), "none of them was refused");
        });
    }
}
