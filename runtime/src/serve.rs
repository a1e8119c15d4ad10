//! `pintle-runtime`: the service itself.
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use images::{Images, Store};
use machine::cri::image_service_server::ImageServiceServer;
use machine::cri::runtime_service_server::RuntimeServiceServer;
use machine::paths;
use node_kit::tasks::essential;
use tokio::net::{TcpListener, UnixListener};

use crate::backend::Backend;
use crate::cri::Service;
use crate::runtime::Runtime;
use crate::state::{ALL_MAY_PASS, CLOSED};
use crate::transfer::{self, Transfer};
use node_kit::machine_socket::Client as MachineSocket;
use pod_network::Places;
use pod_network::PodNetwork;
use streams::Server;

/// The largest request that is read; CRI's own clients use the same.
const MAX_MESSAGE: usize = 16 << 20;

/// Folders below [`paths::RUNTIME_RUN`], which is the first one. Processes that launch containers of a pod
/// with a user namespace come to what is theirs as users of that; nobody else has anything to look for there.
const FOLDERS: [(&str, u32); 8] = [
    ("", ALL_MAY_PASS),
    ("sandboxes", CLOSED),
    ("containers", ALL_MAY_PASS),
    ("launch", CLOSED),
    ("exec", CLOSED),
    ("ns", ALL_MAY_PASS),
    ("network", CLOSED),
    ("seccomp", CLOSED),
];

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
    crate::restore::end_launches().await;
    for (folder, mode) in FOLDERS {
        let path = Path::new(paths::RUNTIME_RUN).join(folder);
        crate::state::make_folder(&path, mode).with_context(|| format!("make {}", path.display()))?;
    }
    sys::mount::make_private(Path::new(paths::RUNTIME_RUN).join("containers"))
        .context("keep containers' mounts to the runtime")?;
    crate::launch::seal().context("mount pintle-launch read-only")?;
    let base = crate::launch::base::make().context("make a mount namespace for launches")?;
    if let Err(error) = crate::apparmor::load_default() {
        tracing::error!(%error, "containers run without AppArmor's default profile");
    }
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
    let transfer = transfer(machine.as_deref()).await.context("make the way from pipes to logs")?;
    let runtime = Runtime::new(Images(store.clone()), Arc::new(network), machine.clone(), transfer, base);
    runtime.restore().await;

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

/// With the pipes that PID 1 kept for us, or new ones that it keeps from now on.
async fn transfer(machine: Option<&MachineSocket>) -> anyhow::Result<Arc<Transfer>> {
    let note = Path::new(paths::RUNTIME_RUN).join("log-in-flight");
    let kept = match machine {
        Some(machine) => machine.get(transfer::NAME).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let known = Transfer::knows(kept.len());
    let transfer = Transfer::new(kept, &note)?;
    if let (Some(machine), false) = (machine, known) {
        machine.put(transfer::NAME, &transfer.raw()).await?;
    }
    Ok(Arc::new(transfer))
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
