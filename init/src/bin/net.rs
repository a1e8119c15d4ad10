//! `pintle-net`: DHCP, SNTP and config fetching for PID 1; see `init::net`.
use std::os::unix::net::UnixStream;

use anyhow::Context;

/// The socket to init.
const SOCKET: i32 = 3;

fn main() -> anyhow::Result<()> {
    let socket =
        sys::inherited::take(SOCKET).context("take over descriptor 3; pintle-net is started by init only")?;
    tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the async runtime")?;
    runtime.spawn(sys::memory::keep_small());
    runtime.block_on(init::net::service::run(UnixStream::from(socket)))
}
