//! `pintle-runtime`: the service itself.
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use containers::{Backend, Runtime};
use images::{Images, Store};
use machine::cri::image_service_server::ImageServiceServer;
use machine::cri::runtime_service_server::RuntimeServiceServer;
use machine::paths;
use node_kit::tasks::essential;
use tokio::net::{TcpListener, UnixListener};

use crate::cri::Service;
use node_kit::machine_socket::Client as MachineSocket;
use pod_network::Places;
use pod_network::PodNetwork;
use streams::Server;

/// The largest request that is read; CRI's own clients use the same.
const MAX_MESSAGE: usize = 16 << 20;

/// Takes over what runs already and serves CRI.
///
/// # Errors
/// When it cannot begin, or the socket fails.
pub async fn run() -> anyhow::Result<()> {
    let machine = MachineSocket::find().map(Arc::new);
    if machine.is_none() {
        tracing::warn!(
            "no machine socket at {}: containers' streams and exit codes do not survive the runtime here",
            paths::MACHINE_SOCKET
        );
    }
    let ground = containers::prepare(machine.as_deref()).await?;
    let store = Store::open_with(
        Path::new(paths::RUNTIME_STATE),
        Path::new(paths::BUNDLE),
        crate::settings::images(),
    )
    .context("open the image store")?;
    let network = PodNetwork::restore(
        crate::settings::pod_network(),
        &Path::new(paths::RUNTIME_RUN).join("network"),
        Places::conventional(Path::new(paths::RUNTIME_STATE)),
    )
    .context("open the pod network")?;
    let runtime = Runtime::new(Images(store.clone()), Arc::new(network), machine.clone(), ground);
    runtime.restore(crate::settings::cluster_cidrs()).await;

    let streams = streams(Arc::new(Backend::new(Arc::clone(&runtime)))).await?;
    let socket = listen(paths::STREAM_SOCKET)?;
    essential("streams", streams.clone().serve_unix(socket, crate::peers::admits));
    essential("imports", crate::import::serve(listen(paths::IMPORT_SOCKET)?, store.clone()));
    let service =
        RuntimeServiceServer::new(Service { runtime, streams }).max_decoding_message_size(MAX_MESSAGE);
    let image_service =
        ImageServiceServer::new(crate::cri::images::Service(store)).max_decoding_message_size(MAX_MESSAGE);
    let listener = listen(paths::CRI_SOCKET)?;
    if let Some(machine) = machine {
        machine.ready().await.context("tell PID 1 that the runtime is ready")?;
    }
    tracing::info!(socket = paths::CRI_SOCKET, "serving CRI");
    tonic::transport::Server::builder()
        .add_service(service)
        .add_service(image_service)
        .serve_with_incoming(crate::peers::admitted(listener))
        .await
        .context("serve CRI")
}

/// The server of streams: on loopback too where the machine config says so, and its URLs name that port then.
async fn streams(backend: Arc<Backend>) -> anyhow::Result<Server> {
    let Some(port) = crate::settings::stream_port() else { return Ok(Server::new(backend)) };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("listen for streams at {address}; streamPort of the Runtime document says which port")
    })?;
    let server = Server::with_base(backend, format!("http://{address}"));
    essential("streams over TCP", server.clone().serve_tcp(listener));
    Ok(server)
}

/// A socket for root alone, and of root for those whom [`crate::peers`] admits, in the place of what a former process left.
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
