//! `pintle-runtime`: the CRI server.
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use machine::cri::image_service_server::ImageServiceServer;
use machine::cri::runtime_service_server::RuntimeServiceServer;
use machine::paths;
use runtime::backend::Backend;
use runtime::cri::Service;
use runtime::image;
use runtime::images::Images;
use runtime::machine_socket::MachineSocket;
use runtime::network::PodNetwork;
use runtime::runtime::Runtime;
use runtime::streaming::Server;
use tokio::net::UnixListener;

/// The largest request that is read; CRI's own clients use the same.
const MAX_MESSAGE: usize = 16 << 20;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    tokio.spawn(sys::memory::keep_small());
    tokio.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let machine = MachineSocket::find().map(Arc::new);
    if machine.is_none() {
        tracing::warn!(
            "no machine socket at {}: containers' streams and exit codes do not survive the runtime here",
            paths::MACHINE_SOCKET
        );
    }
    for folder in ["sandboxes", "containers", "launch", "exec", "ns", "network", "seccomp"] {
        let path = Path::new(paths::RUNTIME_RUN).join(folder);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let store = image::Store::open(
        Path::new(paths::RUNTIME_STATE),
        Path::new(paths::BUNDLE),
        runtime::settings::registries(),
    )
    .context("open the image store")?;
    let network = PodNetwork::restore(&Path::new(paths::RUNTIME_RUN).join("network"))
        .context("open the pod network")?;
    let runtime = Runtime::new(Images(store.clone()), Arc::new(network), machine.clone());
    runtime.restore().await;

    let streams = Server::new(Arc::new(Backend(Arc::clone(&runtime))));
    tokio::spawn(streams.clone().serve_unix(listen(paths::STREAM_SOCKET)?));
    tokio::spawn(image::serve_import(listen(paths::IMPORT_SOCKET)?, store.clone()));
    let service =
        RuntimeServiceServer::new(Service { runtime, streams }).max_decoding_message_size(MAX_MESSAGE);
    let images = ImageServiceServer::new(image::Service(store)).max_decoding_message_size(MAX_MESSAGE);
    let listener = listen(paths::CRI_SOCKET)?;
    if let Some(machine) = machine {
        machine.ready().await.context("tell PID 1 that the runtime is ready")?;
    }
    tracing::info!(socket = paths::CRI_SOCKET, "serving CRI");
    tonic::transport::Server::builder()
        .add_service(service)
        .add_service(images)
        .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener))
        .await
        .context("serve CRI")
}

/// A socket for root alone, in the place of what a former process left.
fn listen(path: &str) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {path}"));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {path}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {path}"))?;
    Ok(listener)
}
