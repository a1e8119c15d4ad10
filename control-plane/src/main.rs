//! `pintle-control-plane`: see the library's documentation.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(
            // kube logs every attempt to reach an API server that is not up yet; what matters of that is reported as a condition.
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,kube_client=off".into()),
        )
        .init();
    control_plane::run().await
}
