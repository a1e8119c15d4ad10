//! `pintle-runtime` as an executable of its own, for tests and benchmarks; a node has it in `pintle-services`.
fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    tokio.spawn(sys::memory::keep_small());
    tokio.block_on(runtime::run())
}
