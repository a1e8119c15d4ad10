//! Exec, attach and port-forward: the runtime is told what is wanted and answers with a URL; the client's own upgrade request goes to
//! that URL on the runtime's unix socket, and from then on bytes are copied both ways without a look at them, be they SPDY/3.1 or
//! WebSocket frames.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machine::cri;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

use super::backend::Backend;
use super::joined::join;
use super::query::Query;
use super::reply::{Answer, Problem, full};
use super::route::PodPath;
use super::{Shared, find};
use crate::pods::ServedPod;

/// How long the runtime may take to accept a stream.
const ACCEPT_WITHIN: Duration = Duration::from_secs(30);

/// How long a stream may be silent, as with the kubelet (streamingConnectionIdleTimeout).
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exec,
    Attach,
}

/// Opens an exec or attach stream.
pub(super) async fn to_container(
    shared: &Shared,
    kind: Kind,
    path: &PodPath,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let backend = &shared.backend;
    let served = pod(backend, path)?;
    let container_id = id_of(&served, container, &path.name)?;
    let (stdin, stdout, mut stderr) = (query.is_on("input"), query.is_on("output"), query.is_on("error"));
    let mut tty = query.is_on("tty");
    if kind == Kind::Attach {
        tty = has_tty(&served, container);
    }
    // A terminal has one output.
    stderr &= !tty;
    if !stdin && !stdout && !stderr {
        return Err(Problem::bad_request("you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    let place = place(shared)?;
    let url = match kind {
        Kind::Exec => {
            let cmd = query.all("command");
            backend.exec(cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await
        }
        Kind::Attach => backend.attach(cri::AttachRequest { container_id, stdin, tty, stdout, stderr }).await,
    };
    proxy(request, &url.map_err(Problem::internal)?, &shared.stream_socket, place).await
}

/// Opens a port-forward stream.
pub(super) async fn to_ports(
    shared: &Shared,
    path: &PodPath,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let backend = &shared.backend;
    let served = pod(backend, path)?;
    let sandbox = served.sandbox.ok_or_else(|| {
        Problem::bad_request(format!("pod {:?} has no sandbox: it is not running", path.name))
    })?;
    let parse = |port: &str| port.parse::<u16>().map(i32::from);
    let port = query.all("port").iter().flat_map(|list| list.split(',')).map(parse).collect::<Result<_, _>>();
    let port = port.map_err(|error| Problem::bad_request(format!("invalid port: {error}")))?;
    let place = place(shared)?;
    let url = backend.port_forward(cri::PortForwardRequest { pod_sandbox_id: sandbox, port }).await;
    proxy(request, &url.map_err(Problem::internal)?, &shared.stream_socket, place).await
}

fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Problem> {
    let place = shared.streams.clone().try_acquire_owned();
    place.map_err(|_| Problem::busy("this node has as many streams as it serves at a time\n"))
}

fn pod(backend: &Arc<dyn Backend>, path: &PodPath) -> Result<ServedPod, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "pod does not exist".into());
    find(&**backend, path).ok_or_else(missing)
}

pub(super) fn id_of(served: &ServedPod, container: &str, pod: &str) -> Result<String, Problem> {
    let found = served.containers.iter().find(|(name, _)| name == container).map(|(_, id)| id.clone());
    found.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"))
    })
}

fn has_tty(served: &ServedPod, container: &str) -> bool {
    let Some(spec) = &served.pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, c.tty));
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| (&c.name, c.tty));
    containers.chain(ephemeral).any(|(name, tty)| name == container && tty == Some(true))
}

/// Sends the client's request on and joins both upgraded connections.
async fn proxy(
    mut request: Request<Incoming>,
    url: &str,
    socket: &str,
    place: OwnedSemaphorePermit,
) -> Result<Answer, Problem> {
    let accepted = tokio::time::timeout(ACCEPT_WITHIN, forward(&mut request, url, socket)).await;
    let mut response = accepted
        .map_err(|_| format!("no answer within {} s", ACCEPT_WITHIN.as_secs()))
        .and_then(|response| response)
        .map_err(|error| {
            Problem::new(StatusCode::BAD_GATEWAY, format!("stream to the runtime at {socket}: {error}"))
        })?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (head, body) = response.into_parts();
        return Ok(Response::from_parts(head, body.boxed_unsync()));
    }
    let runtime = hyper::upgrade::on(&mut response);
    let client = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (Ok(runtime), Ok(client)) = tokio::join!(runtime, client) else { return };
        let (mut runtime, mut client) = (TokioIo::new(runtime), TokioIo::new(client));
        join(&mut runtime, &mut client, IDLE).await;
        drop(place);
    });
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    Ok(answer)
}

async fn forward(
    request: &mut Request<Incoming>,
    url: &str,
    socket: &str,
) -> Result<Response<Incoming>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("URL {url:?}: {error}"))?;
    let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let mut onward = Request::new(Empty::<Bytes>::new());
    *onward.method_mut() = request.method().clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *onward.uri_mut() = path.parse().map_err(|error| format!("URL {url:?}: {error}"))?;
    *onward.headers_mut() = request.headers().clone();
    // Who asked is settled; the runtime has no use for the credentials.
    onward.headers_mut().remove(http::header::AUTHORIZATION);
    onward.headers_mut().remove(http::header::CONTENT_LENGTH);
    onward.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    sender.send_request(onward).await.map_err(|error| error.to_string())
}
