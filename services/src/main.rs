//! `pintle-services`: what init starts, in one executable that goes by the name it is started with. The services know nothing of each other; what they share
//! are the libraries below them, which so are stored once in the image and mapped once into memory.
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use node_kit::heartbeat::alongside;
use sys::service::run;

/// The socket between init and `pintle-net`.
const NET_SOCKET: i32 = 3;

fn main() -> Result<()> {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The services speak TLS with ring alone.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match name.as_str() {
        "pintle-net" => {
            let socket = sys::inherited::take(NET_SOCKET)
                .context("take over descriptor 3; pintle-net is started by init only")?;
            run(2, alongside("net", net::run(UnixStream::from(socket))))
        }
        "pintle-api" => run(2, alongside("api", api::run())),
        "pintle-runtime" => run(8, alongside("runtime", runtime::run())),
        "pintle-agent" => run(64, alongside("agent", agent::run())),
        "pintle-control-plane" => run(8, alongside("control-plane", control_plane::run())),
        other => bail!(
            "{other:?} is none of pintle-net, pintle-api, pintle-runtime, pintle-agent and pintle-control-plane, which init starts"
        ),
    }
}
