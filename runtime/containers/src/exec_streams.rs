//! What runs behind the streams: exec and attach on a container's own streams, port-forward into a pod's network namespace.
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use node_kit::errors::Chain;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exec::Running;
use crate::io::DRAIN;
use crate::logs::Stream;
use crate::pipes::{CHUNK, read, watch, write_all};
use crate::port_forward::{self, Forwards};
use crate::runtime::Runtime;
use crate::state::folder;
use node_kit::lock;
use streams::{Duplex, Input, Output, StreamBackend, StreamError, Streams, TermSize};

/// The runtime, seen from the streaming server.
#[derive(Debug)]
pub struct Backend {
    runtime: Arc<Runtime>,
    forwards: Forwards,
}

impl Backend {
    /// Of this runtime.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime, forwards: Forwards::default() }
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> StreamError {
    StreamError(format!("{what}: {error}"))
}

#[async_trait::async_trait]
impl StreamBackend for Backend {
    async fn exec(
        &self,
        container_id: &str,
        cmd: &[String],
        tty: bool,
        streams: Streams,
    ) -> Result<i32, StreamError> {
        let running = self
            .runtime
            .exec(container_id, cmd, tty, streams.stdin.is_some())
            .await
            .map_err(|error| StreamError(Chain(&error).to_string()))?;
        serve(running, streams).await.map_err(|error| failed("serve an exec's streams", &error))
    }

    async fn attach(&self, container_id: &str, tty: bool, streams: Streams) -> Result<(), StreamError> {
        let container =
            self.runtime.container(container_id).map_err(|error| StreamError(Chain(&error).to_string()))?;
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
                    self.runtime.forget_stdin(&container).await;
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
        let sandbox = self
            .runtime
            .sandbox(sandbox_id)
            .map_err(|error| StreamError(Chain(&error).to_string()))?
            .record();
        let host = crate::state::options(&sandbox.config).network == machine::cri::NamespaceMode::Node as i32;
        let netns = (!host).then(|| folder("ns", &sandbox.id).join("net"));
        let _place = self.forwards.place(&sandbox.id).map_err(|full| StreamError(full.to_string()))?;
        let connection = self.forwards.connect(netns.as_deref(), port).await.map_err(|error| {
            failed(&format!("connect to port {port} of the pod sandbox {sandbox_id}"), &error)
        })?;
        port_forward::copy(stream, connection)
            .await
            .map_err(|error| failed(&format!("forward port {port}"), &error))
    }
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
