//! `pintle-services`: what init starts, in one executable that goes by the name it is started with. The services know nothing of each other; what they share
//! are the libraries below them, which so are stored once in the image and mapped once into memory.
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use node_kit::heartbeat::alongside;
use sys::service::{close_memory, run};

/// The socket to init of `pintle-net` and `pintle-config`.
const CHANNEL: i32 = 3;

fn main() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "pintle-config" {
        // Before anything else: it shall have as little as can be when it reads.
        close_memory().context("close the memory of pintle-config")?;
        return Ok(config::run(UnixStream::from(channel()?))?);
    }
    // The services speak TLS with ring alone.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match name.as_str() {
        "pintle-net" => {
            close_memory().context("close the memory of pintle-net")?;
            run(2, alongside("net", net::run(UnixStream::from(channel()?))))
        }
        "pintle-api" => {
            close_memory().context("close the memory of pintle-api")?;
            run(2, alongside("api", api::run()))
        }
        "pintle-runtime" => run(8, alongside("runtime", runtime::run())),
        "pintle-agent" => run(64, alongside("agent", agent::run())),
        "pintle-control-plane" => run(8, alongside("control-plane", control_plane::run())),
        other => bail!(
            "{other:?} is none of pintle-net, pintle-api, pintle-config, pintle-runtime, pintle-agent and pintle-control-plane, which init starts"
        ),
    }
}

fn channel() -> Result<OwnedFd> {
    sys::inherited::take(CHANNEL).context("take over descriptor 3; init alone starts what speaks on it")
}
