//! `pintle-api`: the machine API; see `init::api`.
use anyhow::Context;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the async runtime")?;
    runtime.spawn(sys::memory::keep_small());
    runtime.block_on(init::api::run())
}
