//! `pintle-agent`: started by init without arguments.
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            // kube logs each failed request without its object; whoever asked says more.
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,kube_client=off".into()),
        )
        .with_ansi(false)
        .with_target(false)
        .init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.spawn(sys::memory::keep_small());
    tokio.block_on(agent::run())
}
