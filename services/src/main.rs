//! `pintle-services`: what init starts, in one executable that goes by the name it is started with. The services know nothing of each other; what they share
//! are the libraries below them, which so are stored once in the image and mapped once into memory.
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The socket between init and `pintle-net`.
const NET_SOCKET: i32 = 3;

fn main() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.as_str() {
        "pintle-net" => {
            let socket = sys::inherited::take(NET_SOCKET)
                .context("take over descriptor 3; pintle-net is started by init only")?;
            serve(2, init::net::service::run(UnixStream::from(socket)))
        }
        "pintle-api" => serve(2, init::api::run()),
        "pintle-runtime" => serve(8, runtime::run()),
        "pintle-agent" => serve(64, agent::run()),
        "pintle-control-plane" => serve(8, control_plane::run()),
        other => bail!(
            "{other:?} is none of pintle-net, pintle-api, pintle-runtime, pintle-agent and pintle-control-plane, which init starts"
        ),
    }
}

/// Runs one service on this thread, and at most so many blocking calls beside it.
fn serve(blocking_threads: usize, service: impl Future<Output = Result<()>>) -> Result<()> {
    // kube logs each failed request without its object; whoever asked says more.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,kube_client=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads)
        .build()
        .context("start the async runtime")?;
    tokio.spawn(sys::memory::keep_small());
    tokio.block_on(service)
}
